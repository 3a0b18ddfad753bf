"""Pseudo-masks: words of a photo, each with the pixels that teacher networks assign to it."""
