"""The demo page: a photo, class names as chips, and the segmentation. Only this room imports Gradio."""
