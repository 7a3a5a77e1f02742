"""Verification: whether rows are as they were sealed, and the seals one chain. Knows no database and no file.

A ``Verifier`` is fed the audit log in order, the rows of a seal and then the seal, and raises ``RecordBroken`` at the
first fault, named as exactly as possible. It keeps the rows of one seal in memory, never more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from payment_service.audit.canonical import FORMS, GENESIS, MAX_ROWS, Row, Seal


class Kind(StrEnum):
    """What can be wrong with the record."""

    ROW_CHANGED = "row_changed"
    ROW_MISSING = "row_missing"
    ROW_ADDED = "row_added"
    SEAL_CHANGED = "seal_changed"
    SEAL_MISSING = "seal_missing"
    SEAL_REPLACED = "seal_replaced"
    SEAL_UNEXPECTED = "seal_unexpected"
    FORM_UNKNOWN = "form_unknown"
    UNREADABLE = "unreadable"
    CHANGE_NOT_RECORDED = "change_not_recorded"


class RecordBroken(Exception):
    """The record is not what was sealed; the text is a sentence."""

    def __init__(self, kind: Kind, sentence: str, *, seal: int | None = None, row: int | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.seal = seal
        self.row = row


@dataclass(frozen=True, slots=True)
class Expected:
    """A hash that another machine kept, and of which seal, if that is known."""

    hash: str
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Retired:
    """Rows that were retired: those under these seals, both ends included, except those that were kept."""

    first_seq: int
    last_seq: int
    kept: frozenset[int]


class Verifier:
    """Follows the chain from its first seal on, or from a seal whose position is trusted."""

    def __init__(
        self, *, expected: Expected | None = None, start_anywhere: bool = False, retired: Sequence[Retired] = ()
    ) -> None:
        """``start_anywhere`` trusts the position of the first seal; otherwise it must be seal 1.

        Rows that are ``retired`` need not be there. Those that are must be as they were sealed.
        """
        self.first: Seal | None = None
        self.last: Seal | None = None
        self.rows = 0
        """Rows that were found to be as they were sealed."""
        self.rows_retired = 0
        """Rows that were missing because they were retired."""
        self._retired = retired
        self._expected = expected
        self._met = expected is None
        self._start_anywhere = start_anywhere
        self._waiting: list[Row] = []

    def continue_after(self, seal: Seal) -> None:
        """Begin after this seal, whose rows are not checked.

        Raises:
            RecordBroken: when the seal is not as it was made.
        """
        self._check_itself(seal)
        self._meet(seal)
        self.last = seal

    def take(self, line: Row | Seal) -> None:
        """The next row or seal.

        Raises:
            RecordBroken: at the first thing that is wrong.
        """
        if isinstance(line, Seal):
            self._take_seal(line)
        elif len(self._waiting) <= MAX_ROWS:
            # One more than a seal can cover is enough to name the row that is too many.
            self._waiting.append(line)

    def end(self) -> None:
        """Finish: nothing more comes.

        Raises:
            RecordBroken: when rows are left that no seal covers, or the expected seal did not come.
        """
        if self._waiting:
            row = self._waiting[0].id
            raise RecordBroken(Kind.ROW_ADDED, f"Row {row} and what follows it is under no seal.", row=row)
        if self._expected is not None and not self._met:
            seq = self._expected.seq
            chain = f"the chain ends with seal {self.last.seq}" if self.last else "there are no seals"
            what = f"There is no seal {seq}" if seq else f"No seal here has the hash {self._expected.hash}"
            raise RecordBroken(Kind.SEAL_UNEXPECTED, f"{what}, and it was expected: {chain}.", seal=seq)

    def _take_seal(self, seal: Seal) -> None:
        self._check_place(seal)
        self._check_itself(seal)
        self._check_chain(seal)
        self._check_rows(seal)
        self._meet(seal)
        self.rows += len(self._waiting)
        self._waiting.clear()
        self.first = self.first or seal
        self.last = seal

    def _check_place(self, seal: Seal) -> None:
        if self.last is None and self._start_anywhere:
            return
        wanted = self.last.seq + 1 if self.last else 1
        if seal.seq != wanted:
            sentence = f"Seal {wanted} is missing: seal {seal.seq} stands in its place."
            raise RecordBroken(Kind.SEAL_MISSING, sentence, seal=wanted)

    def _check_itself(self, seal: Seal) -> None:
        if seal.hash != seal.computed_hash():
            sentence = f"Seal {seal.seq} was changed: its hash is not that of what it holds."
            raise RecordBroken(Kind.SEAL_CHANGED, sentence, seal=seal.seq)
        if seal.form not in FORMS:
            sentence = f"Seal {seal.seq} is of form {seal.form}, which this version of payment-service does not know."
            raise RecordBroken(Kind.FORM_UNKNOWN, sentence, seal=seal.seq)
        ids = [row_id for row_id, _digest in seal.rows]
        fits = bool(ids) and ids == sorted(set(ids)) and seal.after_id < ids[0] and ids[-1] == seal.last_id
        if not fits or len(ids) != seal.count:
            sentence = f"Seal {seal.seq} contradicts itself: this service did not make it."
            raise RecordBroken(Kind.SEAL_CHANGED, sentence, seal=seal.seq)

    def _check_chain(self, seal: Seal) -> None:
        if self.last is None:
            if seal.seq == 1 and (seal.previous, seal.after_id) != (GENESIS, 0):
                sentence = "Seal 1 is not the beginning of a chain: this service did not make it."
                raise RecordBroken(Kind.SEAL_REPLACED, sentence, seal=1)
        elif (seal.previous, seal.after_id) != (self.last.hash, self.last.last_id):
            # Both seals agree with themselves, so the earlier one is not the one that the later one was made after.
            sentence = (
                f"Seal {self.last.seq} is not the one that seal {seal.seq} was chained to: "
                "it was replaced, and maybe what is before it."
            )
            raise RecordBroken(Kind.SEAL_REPLACED, sentence, seal=self.last.seq)

    def _check_rows(self, seal: Seal) -> None:
        """Walk through the rows that were sealed and those that are there, both by id."""
        retired = [one for one in self._retired if one.first_seq <= seal.seq <= one.last_seq]
        found = iter(self._waiting)
        row = next(found, None)
        for sealed_id, digest in seal.rows:
            if row is None or row.id > sealed_id:
                if any(sealed_id not in one.kept for one in retired):
                    self.rows_retired += 1
                    continue
                self._bad_row(Kind.ROW_MISSING, sealed_id, seal, "is missing: it was there when it was sealed")
            if row.id < sealed_id:
                self._bad_row(Kind.ROW_ADDED, row.id, seal, "was added after its place in the record was sealed")
            if row.digest != digest:
                self._bad_row(Kind.ROW_CHANGED, row.id, seal, "was changed after it was sealed")
            row = next(found, None)
        if row is not None:
            self._bad_row(Kind.ROW_ADDED, row.id, seal, "was added after its place in the record was sealed")

    def _bad_row(self, kind: Kind, row: int, seal: Seal, what: str) -> NoReturn:
        raise RecordBroken(kind, f"Row {row} {what}, by seal {seal.seq} of {seal.created_at}.", seal=seal.seq, row=row)

    def _meet(self, seal: Seal) -> None:
        expected = self._expected
        if expected is None:
            return
        if expected.seq == seal.seq and expected.hash != seal.hash:
            sentence = (
                f"Seal {seal.seq} is not the expected one: its hash is {seal.hash}. "
                "It was written anew, and maybe what is before it."
            )
            raise RecordBroken(Kind.SEAL_UNEXPECTED, sentence, seal=seal.seq)
        self._met = self._met or (expected.hash == seal.hash and expected.seq in {None, seal.seq})
