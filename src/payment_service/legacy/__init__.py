"""Imports the routing and the log of the old service."""
