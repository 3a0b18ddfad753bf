"""Replace modules by equal ones that engines can read."""
