"""dinov3.seg: both halves of dino.txt's text meet refined patches, and their costs are refined to labels.

``model.py`` shows the whole way on one screen; ``config.py`` names every choice.
"""
