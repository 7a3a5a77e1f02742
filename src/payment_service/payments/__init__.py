"""Payments: their states, their rows, and the steps from a request to an answer."""
