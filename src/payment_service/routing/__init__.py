"""Routing: which organisation (BIN), device token and provider a shop's money goes through, and who changed that."""
