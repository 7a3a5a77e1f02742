"""What watches the service: alert rules and a dashboard, and the documents that are made from them."""
