"""Models that others have published: where they lie, how they come here, and our networks around them."""
