"""The command line: ``payment-service``. A command reads its settings, calls the services, and prints."""

from payment_service.cli.commands import app, main

__all__ = ["app", "main"]
