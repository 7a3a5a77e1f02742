"""The names that the OpenAPI document gives to operations and their groups: generated clients are named by them."""

from types import MappingProxyType
from typing import Final

NAMES: Final = MappingProxyType(
    {
        ("get", "/api/payment/config"): "get_routing",
        ("post", "/payments/kaspi/create"): "create_payment",
        ("post", "/payments/kaspi/create-link"): "create_payment_link",
        ("get", "/payments/kaspi/status/{external_id}"): "get_payment_status",
        ("post", "/payments/kaspi/refund"): "refund_payment",
        ("get", "/payments"): "search_payments",
        ("get", "/payments/{id}"): "get_payment",
        ("get", "/payments/{id}/qr.{kind}"): "get_payment_qr",
        ("get", "/payments/events"): "stream_events",
        ("get", "/payments/sums"): "sum_payments",
        ("get", "/payments/{id}/status"): "get_payment_status_by_id",
        ("get", "/refunds"): "search_refunds",
        ("get", "/me"): "get_me",
        ("get", "/admin/keys"): "list_keys",
        ("get", "/admin/messages"): "list_messages",
        ("post", "/api/payment/log"): "report_operation",
        ("patch", "/api/payment/status"): "report_status",
        ("get", "/admin/configs"): "list_routes",
        ("post", "/admin/configs"): "add_route",
        ("get", "/admin/configs/by-bin/{bin}"): "get_route_by_bin",
        ("get", "/admin/configs/{shop_id}"): "get_route",
        ("put", "/admin/configs/{shop_id}"): "change_route",
        ("delete", "/admin/configs/{shop_id}"): "deactivate_route",
        ("get", "/admin/configs/{shop_id}/history"): "get_route_history",
        ("get", "/admin/logs"): "list_log",
        ("get", "/admin/tasks"): "list_tasks",
        ("post", "/admin/payments/{id}/settle"): "settle_payment",
        ("post", "/admin/payments/{id}/settle/undo"): "undo_payment_settlement",
        ("post", "/admin/refunds/{id}/settle"): "settle_refund",
        ("post", "/admin/refunds/{id}/settle/undo"): "undo_refund_settlement",
        ("get", "/admin/webhooks"): "list_webhooks",
        ("post", "/admin/webhooks"): "add_webhook",
        ("get", "/admin/webhooks/{id}"): "get_webhook",
        ("put", "/admin/webhooks/{id}"): "change_webhook",
        ("delete", "/admin/webhooks/{id}"): "disable_webhook",
        ("post", "/admin/webhooks/{id}/rotate-secret"): "rotate_webhook_secret",
        ("post", "/admin/webhooks/{id}/test"): "test_webhook",
        ("post", "/admin/webhooks/{id}/replay"): "replay_webhook",
        ("get", "/admin/deliveries"): "list_deliveries",
        ("get", "/admin/deliveries/{id}"): "get_delivery",
        ("post", "/admin/deliveries/{id}/replay"): "replay_delivery",
        ("get", "/admin/notify"): "list_notifications",
        ("post", "/admin/notify"): "add_notification",
        ("get", "/admin/notify/{id}"): "get_notification",
        ("put", "/admin/notify/{id}"): "change_notification",
        ("delete", "/admin/notify/{id}"): "disable_notification",
        ("post", "/admin/notify/{id}/test"): "test_notification",
        ("post", "/webhooks/kaspi"): "hint_kaspi",
        ("post", "/webhooks/provider/{name}"): "hint_provider",
        ("get", "/"): "get_about",
        ("get", "/health"): "get_health",
        ("get", "/api/health"): "get_health_under_api",
        ("get", "/health/ready"): "get_readiness",
        ("get", "/metrics"): "get_metrics",
    }
)
"""By method and path. They are part of the contract: added, never changed."""

SERVERS: Final = (
    {"url": "/", "description": "The service that serves this document."},
    {"url": "http://localhost:8015", "description": "The development server that `make run` starts."},
)

TAGS: Final = (
    {"name": "payments", "description": "Make payments and refunds, and read their results."},
    {"name": "configuration", "description": "The routing of a shop, for a site that calls the provider itself."},
    {"name": "reports", "description": "Reports of operations that a site made itself."},
    {"name": "admin", "description": "Routing, the record, and tasks for people."},
    {"name": "webhooks", "description": "Endpoints that events are delivered to, and their deliveries."},
    {"name": "hints", "description": "Hints that a payment changed; the provider is asked then."},
    {"name": "health", "description": "Whether the process runs and accepts requests."},
)
