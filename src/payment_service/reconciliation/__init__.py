"""Reconciliation: our record of a period held against the provider's word, and the sums for the accountant."""
