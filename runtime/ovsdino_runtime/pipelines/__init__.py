"""The pipelines from photo to labels on the CPU, for OVS-DINO and dinov3.seg."""
