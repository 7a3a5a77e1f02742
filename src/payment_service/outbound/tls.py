"""The certificate authorities that are trusted for outgoing calls."""

import ssl
from functools import cache

import httpx


@cache
def trusted_authorities() -> ssl.SSLContext:
    """The authorities of Mozilla's list, whatever the environment says. Read once: it takes longer than most calls."""
    return httpx.create_ssl_context(trust_env=False)
