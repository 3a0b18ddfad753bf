"""Pseudo-masks: the words of a photo's captions, each with the pixels that two teachers give it."""
