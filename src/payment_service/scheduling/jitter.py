"""Jitter: what failed together must not be retried together."""

import random


def jitter(most: float) -> float:
    """A factor from 1 to ``most``."""
    return random.uniform(1, most)  # noqa: S311 - not a secret
