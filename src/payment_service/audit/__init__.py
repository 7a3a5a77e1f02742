"""Audit: the insert-only record of what was done and of what clients reported."""
