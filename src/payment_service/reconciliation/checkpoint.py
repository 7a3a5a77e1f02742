"""The file from which a stopped run is resumed: its arguments and its progress. It holds no secret."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from payment_service.reconciliation.files import write_whole
from payment_service.reconciliation.service import Period, Walk


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The arguments of a run: it is resumed only with equal ones. ``until`` is none for "until now"."""

    since: datetime
    until: datetime | None
    shop_id: int | None
    apply: bool


class BadCheckpointError(Exception):
    """A run cannot be resumed from the file; the text says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One run that has not ended."""

    asked: RunArguments
    period: Period
    walk: Walk

    def save(self, file: Path) -> None:
        """Write it whole or not at all, in place of the one before.

        Raises:
            CannotWriteError: when it cannot be written.
        """
        write_whole(file, _CHECKPOINTS.dump_json(self, indent=1))

    @classmethod
    def load(cls, file: Path, asked: RunArguments) -> Self:
        """The run that was stopped.

        Raises:
            BadCheckpointError: when there is none, or it had other arguments.
        """
        try:
            found = _CHECKPOINTS.validate_json(file.read_bytes())
        except FileNotFoundError:
            raise BadCheckpointError(f"There is nothing to resume: {file} does not exist.") from None
        except (OSError, ValidationError):
            raise BadCheckpointError(f"{file} was not written by this command.") from None
        if found.asked != asked:
            raise BadCheckpointError(
                f"{file} was left by a run with other arguments: repeat those, or give another --state."
            )
        return cls(found.asked, found.period, found.walk)


_CHECKPOINTS: Final = TypeAdapter(Checkpoint)
