"""Owns how this service calls others over HTTP."""
