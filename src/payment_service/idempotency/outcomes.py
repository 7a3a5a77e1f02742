"""Write 2 of an operation that is done once: the outcome of its call.

Only this process knows the outcome, so its write is retried for as long as the process lives; if the database has lost
the intent, both are written again. A database that takes intents and no outcomes (a right that is missing, a trigger
that fails) would let each new payment be sent and none be recorded, so that this stops new ones.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from payment_service.observability.metrics import OUTCOMES_UNWRITTEN
from payment_service.postgres.database import FOREVER, RowLost, constraint_of, retry_until_written
from payment_service.providers.breaker import Breaker
from payment_service.providers.interface import Outcome, Unknown

FAILURES_TO_STOP: Final = 3
"""So many outcomes, one after the other, that could not be written stop new calls. One or two may be rows that
somebody has locked."""
PAUSE_S: Final = 10.0
"""After it one new call may try, for want of an earlier one that can be written."""

Written = TypeVar("Written")
Written_co = TypeVar("Written_co", covariant=True)


class OutcomeToWrite(Protocol[Written_co]):
    """An outcome of a payment or a refund, and how it is written."""

    @property
    def outcome(self) -> Outcome[Any]:
        """The outcome of the call."""

    async def write(self, outcome: Outcome[Any]) -> Written_co:
        """Write this outcome, over its intent. Safe to repeat."""

    async def restore(self) -> None:
        """Write the intent again, which the database has lost."""

    def refused(self, why: str) -> Unknown:
        """The outcome to write when the database refuses the one of the call."""


@dataclass(slots=True)
class OutcomeWriter:
    """Writes the outcomes of this process."""

    breaker: Breaker = field(default_factory=lambda: Breaker(FAILURES_TO_STOP, PAUSE_S))

    def allows(self) -> bool:
        """Whether a new call may be made: not while the last outcomes could not be written."""
        return self.breaker.allows()

    async def write(self, done: OutcomeToWrite[Written]) -> Written:
        """Write an outcome, for as long as the process lives: no other process knows what the provider said.

        When the database refuses it, unknown is written instead: it may have been done.
        """
        has_failed = False

        async def attempt() -> Written:
            nonlocal has_failed
            try:
                written = await _write_or_restore(done, done.outcome)
            except Exception:
                if not has_failed:
                    has_failed = True
                    OUTCOMES_UNWRITTEN.inc()
                    self.breaker.observe(failed=True)
                raise
            self.breaker.observe(failed=False)
            return written

        try:
            return await retry_until_written(attempt, while_unreachable_s=FOREVER)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being written
            unknown = done.refused(constraint_of(error) or type(error).__name__)
            return await retry_until_written(
                lambda: _write_or_restore(done, unknown), while_unreachable_s=FOREVER, while_refused_s=FOREVER
            )
        finally:
            if has_failed:
                OUTCOMES_UNWRITTEN.dec()


async def _write_or_restore(done: OutcomeToWrite[Written], outcome: Outcome[Any]) -> Written:
    try:
        return await done.write(outcome)
    except RowLost:
        await done.restore()
        return await done.write(outcome)
