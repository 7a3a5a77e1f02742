"""From the old service to this one: its routing and its log, taken over once."""
