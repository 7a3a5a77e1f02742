"""What truly happened: payments, refunds and every call received, under an injected clock, with its file.

A call is written down at the moment it takes effect, before anything is answered. All state is made from the entries
alone, so the file brings it back after a restart.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from kaspi_sandbox import rules
from kaspi_sandbox.records import (
    Call,
    Entry,
    Payment,
    Refund,
    Refusal,
    masked,
    token_hash,
)
from kaspi_sandbox.rules import Course, Step

log = logging.getLogger(__name__)

Press = Literal["pay", "decline"]

#: What a press of the button makes of a payment.
_PRESSED = {"pay": "Processed", "decline": "Error"}

#: 11 digits and above 2**31, as Kaspi's ids are, and far from those that Kaspi gives today (about 13e9): a database in
#: which the service was tried out may go on with the real proxy, where an id of ours would be somebody's payment.
_FIRST_ID = 60_000_000_000
#: Ids also move on with the clock, so that a stand-in without a file seldom repeats the ids of an earlier run.
_IDS_PER_S = 100
_IDS_SINCE = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


def refund_refusal(payment: Payment, call: Call, now: float) -> int | None:
    """Kaspi's code for a refund that cannot be, None for one that can."""
    amount = call.amount or 0
    token = call.device_token and token_hash(call.device_token)
    other_token = payment.device_token_sha256 not in {None, token}
    partial = amount != payment.amount
    reasons = (
        (-99000003, payment.organization_bin != call.organization_bin or other_token),
        (990000028, amount <= 0),
        (-99000011, payment.status(now) != "Processed"),
        (-99000005, amount > payment.amount - payment.refunded),
        (-99000020, partial and payment.course.full_refund_only),
    )
    return next((code for code, holds in reasons if holds), None)


class Ledger:
    """All state of one stand-in."""

    def __init__(self, *, clock: Callable[[], float], pay_after_s: float, seed: int, file: Path | None) -> None:
        """Read `file` back if it exists. `pay_after_s` is not in it: a restart with another one moves pending ends."""
        self.clock = clock
        self._pay_after_s = pay_after_s
        self._file = file
        self._random = random.Random(seed)  # noqa: S311 - spaces out ids, guards nothing
        self._entries: list[Entry] = []
        self._payments: dict[str, Payment] = {}
        self._sequence = 0
        self._last_id = _FIRST_ID + int((clock() - _IDS_SINCE) * _IDS_PER_S)
        if file is not None:
            self._read_back(file)

    # What callers of the proxy do.

    def create(self, call: Call, course: Course) -> Payment:
        """Make a payment by phone or by link. The caller has checked that the call is whole."""
        external_id = str(self._next_id())
        self._write(call, course, applied=True, external_id=external_id)
        return self._payments[external_id]

    def refund(self, call: Call, course: Course) -> Refund | Refusal:
        """Pay back, or say why not; the status of the payment stays as it is."""
        payment = self._payments.get(call.external_id or "")
        refusal = -1601 if payment is None else refund_refusal(payment, call, self.clock())
        if refusal is not None or payment is None or call.amount is None:
            return self.refuse(call, course, refusal or -1601)
        refund = Refund(payment.external_id, self._next_id(), call.amount)
        self._write(call, course, applied=True, return_operation_id=refund.return_operation_id)
        return refund

    def read(self, call: Call, course: Course) -> Payment | Refusal:
        """Find the payment that a status call asks for; a read is never `applied`."""
        payment = self._payments.get(call.external_id or "")
        if payment is None:
            return self.refuse(call, course, -1601)
        self.note(call, course)
        return payment

    def refuse(self, call: Call, course: Course, code: int) -> Refusal:
        """Write down a call that Kaspi refuses."""
        self.note(call, course, refusal=str(code))
        return Refusal(code)

    def note(self, call: Call, course: Course, *, refusal: str | None = None) -> None:
        """Write down a call that had no effect."""
        self._write(call, course, applied=False, refusal=refusal)

    # What a person at the page, or a test, does.

    def press(self, external_id: str, button: Press) -> Payment | None:
        """Pay or decline in the customer's place; None when no such payment is pending."""
        payment = self._payments.get(external_id)
        now = self.clock()
        if payment is None or not payment.pending(now):
            return None
        line = {"press": button, "external_id": external_id, "time": now}
        self._append(line)
        self._take_press(line)
        return payment

    def reset(self) -> None:
        """Forget everything but the ids that were given."""
        line = {"reset": True, "last_id": self._last_id}
        self._append(line)
        self._take_reset(line)

    # What can be asked.

    def entries(self) -> Iterable[Entry]:
        """Every call, oldest first."""
        return self._entries

    def payments(self, limit: int | None = None) -> Iterable[Payment]:
        """The payments, newest first."""
        return islice(reversed(self._payments.values()), limit)

    def before(self, external_id: str) -> str:
        """The id of the newest other payment; the same id when there is no other."""
        return next((other.external_id for other in self.payments() if other.external_id != external_id), external_id)

    # How it is kept.

    def _next_id(self) -> int:
        self._last_id += self._random.randint(1, 9)
        return self._last_id

    def _write(
        self,
        call: Call,
        course: Course,
        *,
        applied: bool,
        external_id: str | None = None,
        return_operation_id: int | None = None,
        refusal: str | None = None,
    ) -> None:
        entry = Entry(
            sequence=self._sequence + 1,
            op=call.op,
            time=self.clock(),
            organization_bin=call.organization_bin,
            device_token=call.device_token and masked(call.device_token),
            device_token_sha256=call.device_token and token_hash(call.device_token),
            amount=call.amount,
            phone=call.phone,
            message=call.message,
            external_id=external_id or call.external_id,
            return_operation_id=return_operation_id,
            course=course.name,
            applied=applied,
            refusal=refusal,
            default_merchant_used=call.default_merchant_used,
        )
        self._append(asdict(entry))
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._sequence = entry.sequence
        if not entry.applied or entry.external_id is None or entry.amount is None:
            return
        if entry.op == "refund":
            self._last_id = max(self._last_id, entry.return_operation_id or 0)
            self._payments[entry.external_id].refunded += entry.amount
            return
        self._last_id = max(self._last_id, int(entry.external_id))
        course = rules.BY_NAME.get(entry.course, rules.NORMAL)
        self._payments[entry.external_id] = Payment(
            external_id=entry.external_id,
            op=entry.op,
            created=entry.time,
            amount=entry.amount,
            organization_bin=entry.organization_bin or "",
            device_token_sha256=entry.device_token_sha256,
            phone=entry.phone,
            message=entry.message or "",
            course=course,
            plan=rules.plan(course.life, link=entry.op == "create-link", pay_after_s=self._pay_after_s),
        )

    def _take_press(self, line: dict[str, Any]) -> None:
        payment = self._payments[line["external_id"]]
        age = line["time"] - payment.created
        lived = tuple(step for step in payment.plan if step.after_s <= age)
        payment.plan = (*lived, Step(age, _PRESSED[line["press"]]))

    def _take_reset(self, line: dict[str, Any]) -> None:
        self._entries.clear()
        self._payments.clear()
        self._last_id = max(self._last_id, line["last_id"])

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _read_back(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        text = file.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            # The last run died while writing: keep the next line apart from the torn one.
            with file.open("a", encoding="utf-8") as torn:
                torn.write("\n")
        for number, raw in enumerate(text.split("\n"), start=1):  # a message may hold a line separator of Unicode
            if not raw:
                continue
            try:
                line = json.loads(raw)
            except ValueError:
                log.warning("ledger file: line %d is torn and was left out", number)
                continue
            if "press" in line:
                self._take_press(line)
            elif "reset" in line:
                self._take_reset(line)
            else:
                self._take(Entry(**line))
