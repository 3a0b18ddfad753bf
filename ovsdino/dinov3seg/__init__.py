"""The dinov3.seg network: refine patches, correlate them with dino.txt's text embeddings, refine and decode.

``model.py`` composes the parts; ``config.py`` lists every choice.
"""
