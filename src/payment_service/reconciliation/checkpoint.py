"""The file by which a stopped run is taken up again: what was asked, and how far it came. It holds no secret."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from payment_service.reconciliation.files import write_whole
from payment_service.reconciliation.service import Period, Walk


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run was asked: only the same is taken up. ``until`` is none for "until now"."""

    since: datetime
    until: datetime | None
    shop_id: int | None
    apply: bool


class BadCheckpointError(Exception):
    """The file is not what a run can be taken up from; the text says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One run that has not ended."""

    asked: Asked
    period: Period
    walk: Walk

    def save(self, file: Path) -> None:
        """Write it whole or not at all, in place of the one before.

        Raises:
            CannotWriteError: when it cannot be written.
        """
        write_whole(file, _CHECKPOINTS.dump_json(self, indent=1))

    @classmethod
    def load(cls, file: Path, asked: Asked) -> Self:
        """The run that was stopped.

        Raises:
            BadCheckpointError: when there is none, or it was asked something else.
        """
        try:
            found = _CHECKPOINTS.validate_json(file.read_bytes())
        except FileNotFoundError:
            raise BadCheckpointError(f"There is nothing to take up: {file} does not exist.") from None
        except (OSError, ValidationError):
            raise BadCheckpointError(f"{file} is not what a run of this command leaves behind.") from None
        if found.asked != asked:
            raise BadCheckpointError(
                f"{file} was left by a run with other arguments: repeat those, or give another --state."
            )
        return cls(found.asked, found.period, found.walk)


_CHECKPOINTS: Final = TypeAdapter(Checkpoint)
