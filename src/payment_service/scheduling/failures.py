"""Background work that failed: counted, and logged as an error unless the database is away. It is tried again."""

from payment_service.observability.metrics import WORK_FAILURES, labelled
from payment_service.observability.sentry import report
from payment_service.postgres.database import is_unreachable


def note(work: str, error: BaseException) -> None:
    """Note that a piece of this kind of work failed."""
    labelled(WORK_FAILURES, work).inc()
    if not is_unreachable(error):
        report(error)
