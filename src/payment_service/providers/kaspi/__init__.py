"""Kaspi Pay, through the PHP proxy on its allow-listed server (docs/kaspi-api.md)."""
