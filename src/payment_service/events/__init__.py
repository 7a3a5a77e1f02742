"""Events: what happened, written down where it happened and told to those who want to know."""
