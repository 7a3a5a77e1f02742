"""Owns whose certificates are believed when we call somebody."""

import ssl
from functools import cache

import httpx


@cache
def mozillas_list() -> ssl.SSLContext:
    """The authorities of Mozilla's list, whatever the environment says. Read once: it takes longer than most calls."""
    return httpx.create_ssl_context(trust_env=False)
