"""Kaspi Pay, through the PHP proxy on its allow-listed server (docs/kaspi-api.md)."""

from typing import Final

NAME: Final = "kaspi"
"""What routes, payments and the record call this provider."""
