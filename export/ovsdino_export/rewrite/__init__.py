"""Restate modules for engines, without changing their numbers."""
