"""The segmentation pipeline on a GPU: the stages of `pipelines`, submitted to CUDA streams."""
