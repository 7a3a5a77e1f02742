"""Outbound: calls of addresses that others name, and which addresses may be called."""
