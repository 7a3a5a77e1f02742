"""Reconciliation: our record of a period compared with the provider's status, and the sums for the accountant."""
