"""Idempotency: the second promise, "never twice"."""
