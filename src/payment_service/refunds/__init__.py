"""Refunds: money going back, by the route that the payment took."""
