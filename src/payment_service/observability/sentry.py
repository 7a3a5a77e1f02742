"""Unexpected errors to Sentry, off unless ``SENTRY_DSN`` is set: what failed and where, without any text from outside.

An error is sent with its type, the files, functions and lines it passed through, and the ids that are bound to the log
lines. Its text stays here: a device token or a key in it looks like any other word, so no scrubber can promise to find
it. The log line with the same ``request_id`` has the text, scrubbed. No locals, no source, no request, no breadcrumbs;
and none of the SDK's integrations, which would collect these. The SDK is imported only when it is on.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from payment_service import __version__
from payment_service.observability import logs

if TYPE_CHECKING:
    from sentry_sdk.types import Event

STOP_WITHIN_S: Final = 2
"""How long a process that stops waits for the last errors."""
_TAGS: Final = ("request_id", "payment_id", "refund_id", "shop_id", "event_id", "endpoint_id", "operation")


class SentryError(Exception):
    """Errors cannot be sent; the text says what to do."""


def report(error: BaseException) -> None:
    """Report an unexpected error."""
    if _is_on:
        _send(error)


@contextlib.contextmanager
def sentry(dsn: str | None, process: str) -> Iterator[None]:
    """Send errors to this DSN within the block. Without one nothing is imported.

    Raises:
        SentryError: the SDK is not installed, or the DSN is none.
    """
    global _is_on  # noqa: PLW0603 - one per process, as the log
    if dsn is None:
        yield
        return
    flush = _open(dsn, process)
    _is_on = True
    try:
        yield
    finally:
        _is_on = False
        flush(timeout=STOP_WITHIN_S)


def _send(error: BaseException) -> None:
    import sentry_sdk  # noqa: PLC0415 - only where it is on

    with sentry_sdk.new_scope() as scope:
        scope.set_tags({name: str(value) for name, value in logs.bound().items() if name in _TAGS})
        scope.capture_exception(error)


def _open(dsn: str, process: str) -> Any:
    try:
        import sentry_sdk  # noqa: PLC0415 - optional
        from sentry_sdk.utils import BadDsn  # noqa: PLC0415 - optional
    except ImportError:
        raise SentryError(
            "SENTRY_DSN is set and the SDK is not installed: install payment-service[sentry], or take the setting away."
        ) from None
    try:
        sentry_sdk.init(
            dsn,
            release=f"payment-service@{__version__}",
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            before_breadcrumb=lambda _crumb, _hint: None,
            before_send=_bare,
            propagate_traces=False,
            auto_session_tracking=False,
            send_client_reports=False,
        )
    except BadDsn:
        raise SentryError("SENTRY_DSN is no DSN: copy it from the project's settings in Sentry.") from None
    sentry_sdk.get_global_scope().set_tag("process", process)
    return sentry_sdk.flush


def _bare(event: "Event", _hint: dict[str, Any]) -> "Event":
    """The event without the texts of errors, and scrubbed."""
    for one in event.get("exception", {}).get("values", []):
        one["value"] = ""
    bare: Event = logs.scrubbed(
        {name: value for name, value in event.items() if name not in {"request", "breadcrumbs"}}
    )
    return bare


_is_on = False
