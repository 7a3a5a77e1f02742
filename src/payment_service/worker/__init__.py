"""Background jobs that call the same services as HTTP does. Any number of workers, on any number of machines."""
