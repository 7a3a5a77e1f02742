"""Observability: logs, metrics and who is behind a request."""
