"""The checker, checked: clean books pass, each law is broken by hand once, and every planted bug is found."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest

from faults import checker
from faults.bench import Bench
from faults.books import Line, MoneyCall, PaymentRow, Records, RefundRow, StatusCall, gather
from faults.clients import Asked, Clients, Told
from faults.planted import PLANTS
from faults.rig import Arrival, Rig
from faults.scenarios import SCENARIOS, SETTINGS, Stage, without_laws

pytestmark = pytest.mark.xdist_group("faults")

PAYMENT, REFUND = UUID(int=1), UUID(int=2)
BIN, OTHER_BIN = "920317450731", "210440028324"
CREATE = Asked(
    op="create",
    shop_id=121038,
    amount=10_000,
    phone="77015211545",
    word="flowers",
    order_id="order 1",
    key="key-1",
    metadata=(("site", "a"),),
)
PAY_BACK = Asked(op="refund", shop_id=121038, amount=4_000, external_id="111", key="key-2")
CREATED = Told(
    asked=CREATE,
    by="serve",
    status=200,
    body={"id": str(PAYMENT), "external_id": "111", "organization_bin": BIN},
)
REFUNDED = Told(
    asked=PAY_BACK,
    by="serve",
    status=200,
    body={"id": str(PAYMENT), "refund_id": str(REFUND), "external_id": "111", "organization_bin": BIN},
)
REFUSED = Told(asked=CREATE, by="serve", status=503, body={"code": "not_sent"})
STILL_RUNNING = Told(
    asked=CREATE, by="serve", status=409, body={"code": "still_running", "id": str(PAYMENT)}, at=1_010, seconds=1
)
PAID = PaymentRow(
    id=PAYMENT,
    method="phone",
    shop_id=121038,
    organization_bin=BIN,
    token_sha256="a1",
    amount=10_000,
    message="flowers",
    short_code="ABCDEF",
    order_id="order 1",
    state="paid",
    failure=None,
    external_id="111",
    refunded_amount=4_000,
    reserved_amount=0,
    source="service",
    created_at=1_000,
    metadata={"site": "a"},
)
DONE = RefundRow(id=REFUND, payment_id=PAYMENT, amount=4_000, state="succeeded", created_at=1_000)
SENT = MoneyCall(
    op="create",
    organization_bin=BIN,
    token_sha256="a1",
    amount=10_000,
    message="flowers #ABCDEF",
    external_id="111",
)
PAID_BACK = MoneyCall(op="refund", organization_bin=BIN, token_sha256="a1", amount=4_000, external_id="111")
CAME = Arrival("create", "ABCDEF", None, "100.00", "sending", looked=True)


def clean() -> Records:
    """A payment that was paid and partly refunded, as everybody tells it."""
    return Records(
        told=[CREATED, REFUNDED],
        payments=[PAID],
        refunds=[DONE],
        log=[Line(payment_id=PAYMENT, refund_id=None, state=state) for state in ("pending", "paid")]
        + [Line(payment_id=PAYMENT, refund_id=REFUND, state="succeeded")],
        claims={"key-1": PAYMENT, "key-2": REFUND},
        calls=[SENT, PAID_BACK],
        readings=[StatusCall(external_id="111", time=1_000)],
        confirm_s=0.3,
        lease_s=30,
        arrivals=[CAME, Arrival("refund", None, "111", "40.00", "sending", looked=True)],
        written='{"event": "payment moved"}',
        secrets=frozenset({"rig-access-token", "77015211545"}),
    )


Change = Callable[[Records], None]


def put(name: str, *rows: object) -> Change:
    return lambda books: setattr(books, name, list(rows))


def add(name: str, *rows: object) -> Change:
    return lambda books: setattr(books, name, [*getattr(books, name), *rows])


def states(*words: str) -> list[Line]:
    return [Line(payment_id=PAYMENT, refund_id=None, state=word) for word in words]


BROKEN: list[tuple[str, str, Change]] = [
    ("applied_has_its_row", "a call without a payment", add("calls", replace(SENT, message="tea #XXXXXX"))),
    ("applied_has_its_row", "a refund of nobody's payment", add("calls", replace(PAID_BACK, external_id="999"))),
    ("written_before_sent", "no row when the call came", put("arrivals", replace(CAME, state=None))),
    ("written_before_sent", "a call for a paid payment", put("arrivals", replace(CAME, state="paid"))),
    ("applied_once", "a payment applied twice", add("calls", replace(SENT, external_id="112"))),
    ("applied_once", "a request with two payments", add("calls", replace(SENT, message="flowers #GHJKLM"))),
    ("applied_once", "a refund applied twice", add("calls", PAID_BACK)),
    (
        "applied_once",
        "a refund asked for once, with two rows",
        lambda books: [
            add("calls", PAID_BACK)(books),
            add("refunds", replace(DONE, id=UUID(int=4)))(books),
            put("payments", replace(PAID, refunded_amount=8_000))(books),
            put("log", *books.log, Line(payment_id=PAYMENT, refund_id=UUID(int=4), state="succeeded"))(books),
        ][0],
    ),
    (
        "applied_once",
        "an order with two payments",
        lambda books: [
            add("payments", replace(PAID, id=UUID(int=3), short_code="GHJKLM", external_id="112"))(books),
            add("calls", replace(SENT, message="more #GHJKLM", external_id="112"))(books),
        ][0],
    ),
    ("sent_to_the_pinned_account", "another BIN", put("calls", replace(SENT, organization_bin=OTHER_BIN), PAID_BACK)),
    ("sent_to_the_pinned_account", "another token", put("calls", replace(SENT, token_sha256="b2"), PAID_BACK)),
    ("sent_to_the_pinned_account", "no BIN", put("calls", replace(SENT, default_merchant_used=True), PAID_BACK)),
    ("sent_to_the_pinned_account", "another amount", put("calls", replace(SENT, amount=100), PAID_BACK)),
    ("sent_to_the_pinned_account", "a link for a phone", put("calls", replace(SENT, op="create-link"), PAID_BACK)),
    (
        "sent_to_the_pinned_account",
        "a refused refund by another BIN",
        add("calls", replace(PAID_BACK, organization_bin=OTHER_BIN, applied=False)),
    ),
    ("external_id_is_its_own", "another payment's id", put("payments", replace(PAID, external_id="112"))),
    (
        "state_is_true",
        "failed, and applied",
        put("payments", replace(PAID, state="failed", failure="not_sent")),
    ),
    ("state_is_true", "paid, and never applied", put("calls", PAID_BACK)),
    ("state_is_true", "a refund that was never applied", put("calls", SENT)),
    ("refunds_within_the_payment", "more than was paid", add("calls", replace(PAID_BACK, amount=7_000, applied=False))),
    ("refunds_within_the_payment", "a wrong sum", put("payments", replace(PAID, refunded_amount=0))),
    ("error_is_read_twice", "declined at once", put("payments", replace(PAID, state="failed", failure="declined"))),
    ("told_success_was_done", "told of no payment", put("payments")),
    ("told_success_was_done", "told another amount", put("payments", replace(PAID, amount=20_000))),
    ("told_success_was_done", "told another shop", put("payments", replace(PAID, shop_id=8))),
    ("told_success_was_done", "told another id", put("payments", replace(PAID, external_id="112"))),
    ("told_success_was_done", "told, and not applied", put("calls", PAID_BACK)),
    ("told_success_was_done", "told of a failed refund", put("refunds", replace(DONE, state="failed"))),
    ("told_of_its_own_request", "unknown, of no payment", add("told", replace(CREATED, status=202, body={"id": "x"}))),
    (
        "told_of_its_own_request",
        "unknown, of a payment for another amount",
        add("told", replace(CREATED, status=202, asked=replace(CREATE, amount=200_000, key="key-3"))),
    ),
    (
        "told_of_its_own_request",
        "a payment of another order",
        put("told", replace(CREATED, asked=replace(CREATE, order_id="order 2")), REFUNDED),
    ),
    (
        "told_of_its_own_request",
        "one key, other metadata",
        add("told", replace(CREATED, asked=replace(CREATE, metadata=()))),
    ),
    (
        "told_of_its_own_request",
        "a refund of another payment",
        add("told", replace(REFUNDED, status=202, asked=replace(PAY_BACK, external_id="112", key="key-3"))),
    ),
    ("still_running_ends_with_the_lease", "beyond the lease", add("told", replace(STILL_RUNNING, at=1_032))),
    (
        "still_running_ends_with_the_lease",
        "a refund beyond the lease",
        add("told", replace(STILL_RUNNING, at=1_032, body={"code": "still_running", "id": str(REFUND)})),
    ),
    (
        "still_running_ends_with_the_lease",
        "of nothing",
        add("told", replace(STILL_RUNNING, body={"code": "still_running", "id": str(UUID(int=9))})),
    ),
    ("told_failure_was_not_done", "told no, and applied", put("told", REFUSED)),
    (
        "told_failure_was_not_done",
        "told no of a refund without a key, and applied",
        put(
            "told",
            CREATED,
            replace(REFUNDED, asked=replace(PAY_BACK, key=None), status=409, body={"code": "payment_not_paid"}),
        ),
    ),
    (
        "told_failure_was_not_done",
        "told no of a refund, and applied",
        put("told", CREATED, replace(REFUNDED, status=422, body={"code": "refund_rejected"})),
    ),
    (
        "told_failure_was_not_done",
        "told no of a payment by its id",
        add("told", replace(CREATED, status=422, body={"id": str(PAYMENT), "state": "failed"})),
    ),
    ("nobody_was_told_500", "a mistake of ours", add("told", replace(CREATED, status=500, body={}))),
    (
        "unharmed_shops_are_served",
        "another shop's failures",
        lambda books: [
            add("told", replace(REFUSED, asked=replace(CREATE, word="tea", key="key-3")))(books),
            put("unharmed", 121038)(books),
        ][0],
    ),
    ("one_line_per_move", "a move without a line", put("log", *states("pending"))),
    ("one_line_per_move", "two lines for a move", put("log", *states("pending", "paid", "paid"))),
    ("one_line_per_move", "a move that is not allowed", put("log", *states("paid"))),
    ("key_stands_for_what_was_told", "a key that nobody claimed", lambda books: setattr(books, "claims", {})),
    ("nothing_left_in_sending", "a refund in sending", put("refunds", replace(DONE, state="sending"))),
    ("unknown_only_where_allowed", "an unknown payment", put("payments", replace(PAID, state="unknown"))),
    ("no_secret_was_written", "a secret", lambda books: setattr(books, "written", "token rig-access-token")),
    ("no_secret_was_written", "a phone", lambda books: setattr(books, "written", "invoice 87770001122 now")),
    ("no_secret_was_written", "a query", lambda books: setattr(books, "written", "GET /?organizationBin=1")),
]


def test_clean_books_break_no_law() -> None:
    assert checker.violations(clean(), may_be_unknown=False) == []


def test_client_that_was_told_nothing_in_the_end_believes_nothing() -> None:
    books = clean()
    books.told = [replace(CREATED, status=None, body={}), REFUSED, REFUNDED]
    assert checker.violations(books, may_be_unknown=False) == []


def test_client_that_was_told_still_running_believes_nothing() -> None:
    books = clean()
    books.told = [STILL_RUNNING, REFUNDED]
    assert checker.violations(books, may_be_unknown=False) == []


@pytest.mark.parametrize(("law", "what", "change"), BROKEN, ids=[f"{law}: {what}" for law, what, _ in BROKEN])
def test_broken_law_is_found(law: str, what: str, change: Change) -> None:
    books = clean()
    change(books)
    found = checker.violations(books, may_be_unknown=False)
    assert [violation for violation in found if violation.startswith(f"{law}: ")], found


def test_shop_that_meets_a_busy_database_is_not_harmed_by_another_one() -> None:
    books = clean()
    books.unharmed = frozenset({121038})
    books.told = [*books.told, replace(REFUSED, body={"code": "database_unavailable"})]
    assert checker.violations(books, may_be_unknown=False) == []


def test_every_law_is_broken_by_hand() -> None:
    assert {law for law, _, _ in BROKEN} == {law.__name__ for law in checker.LAWS}


def test_every_planted_bug_has_its_scenario() -> None:
    assert SCENARIOS.keys() == PLANTS.keys()
    assert len(PLANTS) >= 15


@pytest.fixture(scope="module")
async def stage_rig(shared_bench: Bench) -> AsyncIterator[Rig]:
    """A rig whose database may be spoiled; nobody works in it but who a scenario starts."""
    async with await shared_bench.new_rig("planted", SETTINGS, services=1, workers=0) as rig:
        yield rig


QUICK = 3
"""So many plants in `make test`; every one in `make thorough`."""


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(plant, marks=() if number < QUICK else pytest.mark.thorough)
        for number, plant in enumerate(SCENARIOS)
    ],
)
async def test_planted_bug_is_found(stage_rig: Rig, plant: str) -> None:
    scenario = SCENARIOS[plant]
    clients = Clients(stage_rig, random.Random(plant))
    buggy = stage_rig.start_service(FAULTS_PLANT=plant)

    async def found(stage: Stage) -> list[str]:
        await scenario.play(stage)
        with suppress(TimeoutError):  # what stays in sending is for the checker to see
            await stage_rig.settle(within_s=1)
        books = await gather(stage_rig, clients.taken(), unharmed=scenario.unharmed)
        return checker.violations(books, may_be_unknown=scenario.may_be_unknown)

    assert await found(Stage(stage_rig, clients, stage_rig.services[0], {})) == []
    async with without_laws(stage_rig, scenario):
        try:
            await buggy.ready()
            with_bug = await found(Stage(stage_rig, clients, buggy, {"FAULTS_PLANT": plant}))
        finally:
            await buggy.kill()
    assert [violation for violation in with_bug if violation.startswith(f"{scenario.law}: ")], with_bug
