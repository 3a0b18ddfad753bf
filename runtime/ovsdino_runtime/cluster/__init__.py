"""Segment a folder of photos with many processes: Ray, and the journal of finished work."""
