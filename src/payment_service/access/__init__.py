"""Access: who calls, what they may do, and for which shops."""
