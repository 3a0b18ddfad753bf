"""Teacher networks that produce masks: Grounding DINO with SAM, and segmenters of fixed vocabularies."""
