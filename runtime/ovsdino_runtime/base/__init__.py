"""Shared by all rooms: errors, strict JSON, traces, photos, and the results that users get."""
