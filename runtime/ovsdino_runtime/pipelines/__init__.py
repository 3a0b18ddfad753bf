"""From a photo to labels on the processor, for OVS-DINO and for dinov3.seg."""
