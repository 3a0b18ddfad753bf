"""Networks that give masks: Grounding DINO with SAM, and segmenters of fixed vocabularies."""
