"""Background work that failed: counted, and logged as an error unless the database is away. It is tried again."""

from payment_service.observability.metrics import WORK_FAILURES, labelled
from payment_service.observability.sentry import report
from payment_service.postgres.database import is_unreachable


def count_failure(work: str, error: BaseException) -> None:
    """Count a failure of this kind of work, and report it unless the database is away."""
    labelled(WORK_FAILURES, work).inc()
    if not is_unreachable(error):
        report(error)
