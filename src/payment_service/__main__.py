"""``python -m payment_service``: the same as the command ``payment-service``."""

from payment_service.cli import main

main()
