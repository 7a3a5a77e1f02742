"""Events: what happened, written in the transaction where it happened, and passed on to those who subscribed."""
