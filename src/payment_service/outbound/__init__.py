"""Outbound: HTTP calls to others, calls to addresses that users gave, and which addresses may be called."""
