"""``make fuzz``: made-up requests, by the thousand, at the real service, a healthy stand-in and a real PostgreSQL."""
