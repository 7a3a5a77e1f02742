"""The file by which a stopped run is taken up again."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from payment_service.reconciliation.checkpoint import BadCheckpointError, Checkpoint, RunArguments
from payment_service.reconciliation.files import CannotWriteError, write_whole
from payment_service.reconciliation.findings import Finding, Kind
from payment_service.reconciliation.service import Period, Walk

SINCE, NOW = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, 12, 30, 15, 123456, tzinfo=UTC)
ASKED = RunArguments(SINCE, None, 8, apply=False)


def left() -> Checkpoint:
    finding = Finding(
        kind=Kind.UNREAD,
        payment_id=uuid4(),
        shop_id=8,
        organization_bin=None,
        source="client",
        external_id="12800627774",
        short_code=None,
        amount=None,
        created_at=NOW,
        here="pending",
        there="timeout",
    )
    return Checkpoint(ASKED, Period(SINCE, NOW, 8), Walk(3, NOW, uuid4(), [finding]))


def test_what_was_saved_is_what_is_taken_up(tmp_path: Path) -> None:
    checkpoint = left()
    checkpoint.save(tmp_path / "state")
    assert Checkpoint.load(tmp_path / "state", ASKED) == checkpoint
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("other", [{"since": NOW}, {"until": NOW}, {"shop_id": None}, {"apply": True}])
def test_run_with_other_arguments_is_not_taken_up(tmp_path: Path, other: dict[str, Any]) -> None:
    left().save(tmp_path / "state")
    with pytest.raises(BadCheckpointError, match="other arguments"):
        Checkpoint.load(tmp_path / "state", replace(ASKED, **other))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"asked": 1}', b"\xff"])
def test_other_file_is_not_taken_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(BadCheckpointError, match="not written by this command"):
        Checkpoint.load(tmp_path / "state", ASKED)


def test_missing_file_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpointError, match="nothing to resume"):
        Checkpoint.load(tmp_path / "state", ASKED)


def test_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "sums.csv").mkdir()
    with pytest.raises(CannotWriteError, match="cannot be written"):
        write_whole(tmp_path / "sums.csv", b"content")
    assert [file.name for file in tmp_path.iterdir()] == ["sums.csv"]
