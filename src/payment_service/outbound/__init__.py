"""Outbound: how others are called, calls of addresses that others name, and which addresses may be called."""
