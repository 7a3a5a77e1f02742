"""Routes each payment of a marketplace to the account of the seller it belongs to."""

__version__ = "0.2.0"
