"""Results on disk, and the machine they were measured on."""
