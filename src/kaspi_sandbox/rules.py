"""The written rules: which course a call takes, and what each course means. One table, pure.

A course is chosen by the last four digits of the phone (`90NN`) and, where the phone says nothing, by the tiyn part of
the amount (`.NN`). Numbers that ordinary amounts have (.00 to .10, multiples of five, .80 to .99) belong to no course.
The page, docs/sandbox.md and `GET /_courses` all show this table.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

#: "Late" in the life of a payment, as a multiple of the time in which an ordinary customer pays.
LATE = 10

OPS = ("create", "create-link", "status", "refund")

#: Statuses after which nothing more is expected of a payment.
FINAL = frozenset({"Processed", "Error", "RemotePaymentCanceled"})

#: A word that is in nobody's list of statuses.
UNKNOWN_STATUS = "RemotePaymentUnderReview"

#: A code that is in nobody's list of codes.
UNKNOWN_CODE = -77000123

#: Kaspi's codes and our wording of their messages.
MESSAGES = {
    -999: "Service is temporarily unavailable",
    -10000: "Client certificate is missing or wrong",
    -1501: "Device not found",
    -1502: "Device is not active",
    -1503: "Device is already bound to another trade point",
    -1601: "Purchase not found",
    -99000001: "Purchase not found",
    -14000002: "No trade points: create one in the Kaspi Pay app",
    -99000002: "Trade point not found",
    -99000003: "This purchase belongs to another trade point",
    -99000005: "The refund exceeds what is left",
    -99000006: "Refund error: try again or call the bank",
    -99000011: "A refund is impossible in this status",
    -99000020: "A partial refund is impossible: offer a full one",
    990000018: "Trade point is disabled",
    990000026: "Trade point does not accept QR",
    990000028: "Wrong amount",
    990000033: "No payment methods available",
    UNKNOWN_CODE: "Limit of the day is used up",
}


class ReplyForm(StrEnum):
    """How the reply to a call looks, or that there is none."""

    ANSWER = "answer"
    HANG = "hang"
    LATE = "late"
    DROP = "drop"
    RESET = "reset"
    HTTP = "http"
    HTML = "html"
    CUT = "cut"
    SHORT = "short"
    DRIP = "drip"
    CODE = "code"
    ERROR_TEXT = "error_text"
    NO_ID = "no_id"
    OTHER_ID = "other_id"
    LIST = "list"
    EMPTY = "empty"


class Life(StrEnum):
    """What the customer and the merchant do with a payment that was made."""

    PAYS = "pays"
    PAYS_AT_ONCE = "pays_at_once"
    PAYS_LATE = "pays_late"
    DECLINES = "declines"
    EXPIRES = "expires"
    CANCELLED = "cancelled"
    WAITS = "waits"
    ERROR_THEN_PAID = "error_then_paid"
    UNKNOWN_STATUS = "unknown_status"


@dataclass(frozen=True, slots=True)
class Course:
    """One written rule. A call that is refused on its own merits is answered with its refusal, whatever its course."""

    name: str
    meaning: str
    #: `NN` of the phone's ending 90NN and of the amount's tiyn; None for the ordinary course.
    number: int | None = None
    #: Whether the call takes effect.
    applies: bool = True
    reply: ReplyForm = ReplyForm.ANSWER
    life: Life = Life.PAYS
    #: Kaspi's code, with `ReplyForm.CODE`.
    code: int | None = None
    #: HTTP status, with `ReplyForm.HTTP`.
    http: int | None = None
    #: Kaspi refuses partial refunds of this payment.
    full_refund_only: bool = False

    @property
    def phone_ending(self) -> str | None:
        """The last four digits of the phones that take this course."""
        return None if self.number is None else f"90{self.number:02d}"


def _refused(number: int, code: int) -> Course:
    return Course(
        f"code_{abs(code)}",
        f"refused with {code}: {MESSAGES[code]}",
        number,
        applies=False,
        reply=ReplyForm.CODE,
        code=code,
    )


NORMAL = Course("normal", "the customer pays after a few seconds")

COURSES: tuple[Course, ...] = (
    NORMAL,
    # The customer's side.
    Course("pays_at_once", "already paid at the first status read", 11, life=Life.PAYS_AT_ONCE),
    Course("pays_late", f"paid after {LATE} times the ordinary time", 12, life=Life.PAYS_LATE),
    Course("declines", "the customer declines: Error", 13, life=Life.DECLINES),
    Course("expires", f"nobody pays; Error after {LATE} times the ordinary time", 14, life=Life.EXPIRES),
    Course("cancelled", "the merchant cancels: RemotePaymentCanceled", 16, life=Life.CANCELLED),
    Course("waits", "stays pending until a person presses a button", 17, life=Life.WAITS),
    Course(
        "error_then_paid",
        f"Error at once, yet Processed after {LATE} times the ordinary time",
        18,
        life=Life.ERROR_THEN_PAID,
    ),
    Course(
        "unknown_status",
        f"the status reads {UNKNOWN_STATUS} until a person presses a button",
        19,
        life=Life.UNKNOWN_STATUS,
    ),
    Course("full_refund_only", "paid; a partial refund is refused with -99000020", 21, full_refund_only=True),
    # The wire.
    Course("hang", "never answers, not applied", 22, applies=False, reply=ReplyForm.HANG),
    Course("hang_applied", "never answers, applied", 23, reply=ReplyForm.HANG),
    Course("late_applied", "applied, answers after the caller's deadline", 24, reply=ReplyForm.LATE),
    Course("drop", "closes the connection without a byte, not applied", 26, applies=False, reply=ReplyForm.DROP),
    Course("drop_applied", "applied, closes the connection without a byte", 27, reply=ReplyForm.DROP),
    Course("reset_applied", "applied, resets the connection (TCP RST)", 28, reply=ReplyForm.RESET),
    Course("http_500", "HTTP 500, not applied", 29, applies=False, reply=ReplyForm.HTTP, http=500),
    Course("http_500_applied", "applied, HTTP 500", 31, reply=ReplyForm.HTTP, http=500),
    Course("html", "HTTP 200 with an HTML page, not applied", 32, applies=False, reply=ReplyForm.HTML),
    Course("html_applied", "applied, HTTP 200 with an HTML page", 33, reply=ReplyForm.HTML),
    Course(
        "cut_applied",
        "applied, half of the JSON without Content-Length, then a clean end",
        34,
        reply=ReplyForm.CUT,
    ),
    Course("short_applied", "applied, half of what Content-Length promises, then the end", 36, reply=ReplyForm.SHORT),
    Course("drip_applied", "applied, the reply drips byte by byte beyond the deadline", 37, reply=ReplyForm.DRIP),
    # The envelope.
    Course("technical", "-999, not applied", 38, applies=False, reply=ReplyForm.CODE, code=-999),
    Course("technical_applied", "applied, -999", 39, reply=ReplyForm.CODE, code=-999),
    Course("refund_error", "-99000006, not applied", 41, applies=False, reply=ReplyForm.CODE, code=-99000006),
    Course("unknown_code", f"{UNKNOWN_CODE}, not applied", 42, applies=False, reply=ReplyForm.CODE, code=UNKNOWN_CODE),
    Course(
        "error_text",
        "a failure with a text and no code, not applied",
        43,
        applies=False,
        reply=ReplyForm.ERROR_TEXT,
    ),
    Course("no_external_id", "applied, success without an externalId", 44, reply=ReplyForm.NO_ID),
    Course(
        "duplicate_external_id",
        "applied, success with the externalId of the payment before it (its own, if there is none)",
        46,
        reply=ReplyForm.OTHER_ID,
    ),
    Course("list_applied", "applied, success with an empty list for data", 47, reply=ReplyForm.LIST),
    Course("empty_applied", "applied, HTTP 200 with an empty body", 48, reply=ReplyForm.EMPTY),
    Course("http_302", "redirect to a login page, not applied", 49, applies=False, reply=ReplyForm.HTTP, http=302),
    Course("http_401", "HTTP 401, not applied", 51, applies=False, reply=ReplyForm.HTTP, http=401),
    Course("http_404", "HTTP 404, not applied", 52, applies=False, reply=ReplyForm.HTTP, http=404),
    Course("http_429", "HTTP 429, not applied", 53, applies=False, reply=ReplyForm.HTTP, http=429),
    # Refusals that move no money.
    _refused(61, -10000),
    _refused(62, -1501),
    _refused(63, -1502),
    _refused(64, -1503),
    _refused(66, -1601),
    _refused(67, -99000001),
    _refused(68, -14000002),
    _refused(69, -99000002),
    _refused(71, -99000003),
    _refused(72, -99000005),
    _refused(73, -99000011),
    _refused(74, -99000020),
    _refused(76, 990000018),
    _refused(77, 990000026),
    _refused(78, 990000028),
    _refused(79, 990000033),
)

BY_NAME = {course.name: course for course in COURSES}
_BY_NUMBER = {course.number: course for course in COURSES if course.number is not None}
_BY_PHONE = {course.phone_ending: course for course in COURSES if course.phone_ending is not None}


def course_for(phone: str | None, amount: int | None) -> Course:
    """Choose by the phone, then by the amount (tiyn); the ordinary course when neither says anything."""
    if phone is not None and (course := _BY_PHONE.get(phone[-4:])) is not None:
        return course
    return NORMAL if amount is None else _BY_NUMBER.get(amount % 100, NORMAL)


@dataclass(frozen=True, slots=True)
class Step:
    """From `after_s` seconds after its creation a payment has this status, until the next step."""

    after_s: float
    status: str


def plan(life: Life, *, link: bool, pay_after_s: float) -> tuple[Step, ...]:
    """Lay out the whole life of a payment; its first step is what the answer to its creation says."""
    made = Step(0, "QrTokenCreated" if link else "Wait")
    seen = Step(pay_after_s / 2, "RemotePaymentCreated")
    late_s = pay_after_s * LATE
    match life:
        case Life.PAYS:
            return (made, seen, Step(pay_after_s, "Processed"))
        case Life.PAYS_AT_ONCE:
            return (made, Step(0, "Processed"))
        case Life.PAYS_LATE:
            return (made, seen, Step(late_s, "Processed"))
        case Life.DECLINES:
            return (made, seen, Step(pay_after_s, "Error"))
        case Life.EXPIRES:
            return (made, Step(late_s, "Error"))
        case Life.CANCELLED:
            return (made, Step(pay_after_s, "RemotePaymentCanceled"))
        case Life.WAITS:
            return (made,)
        case Life.ERROR_THEN_PAID:
            return (made, Step(0, "Error"), Step(late_s, "Processed"))
        case Life.UNKNOWN_STATUS:
            return (made, Step(0, UNKNOWN_STATUS))
        case _:
            assert_never(life)


def markdown_table() -> str:
    """The table as docs/sandbox.md carries it."""
    lines = ["| Phone ends in | Tiyn | Course | Applied | What happens |", "|---|---|---|---|---|"]
    lines += [
        f"| {course.phone_ending or 'any other'} | {'any other' if course.number is None else f'.{course.number:02d}'} "
        f"| `{course.name}` | {'yes' if course.applies else 'no'} | {course.meaning} |"
        for course in COURSES
    ]
    return "\n".join(lines) + "\n"
