"""Refunds: paying money back by the route that the payment took."""
