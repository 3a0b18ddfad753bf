"""A folder of photos by many processes: Ray, and the journal of finished work."""
