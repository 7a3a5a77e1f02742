"""The metrics of a process for Prometheus, behind a token if one is set."""

import hmac

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(authorization: str | None, token: str | None) -> bytes | None:
    """Every metric of this process; none without the token as ``Authorization: Bearer TOKEN``.

    Without a token in the settings everybody may read them.
    """
    scheme, _, given = (authorization or "").partition(" ")
    right = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), (token or "").encode())
    return None if token is not None and not right else generate_latest()
