"""Scheduling: work that goes on in the background, and work that must not be cut off."""
