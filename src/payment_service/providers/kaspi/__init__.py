"""Kaspi Pay, through the PHP proxy on its allow-listed server (kaspi-api.md)."""
