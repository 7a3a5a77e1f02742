"""Two providers side by side, whose ids are equal: each is asked about its own payments, and moves those alone."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import InvalidInput, PaymentNotFound
from payment_service.money import Money
from payment_service.payments.models import Payment
from payment_service.payments.reading import ForeignPayment
from payment_service.postgres.database import Database
from payment_service.providers.registry import DEFAULT, Registry
from payment_service.refunds.service import RefundRequest
from payment_service.reports.service import Report
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.asking import FIRST_ID, OTHER_SHOP, SHOP, TESTS, ask, payments_of, taking, two_shops
from tests.support.database import empty_tables
from tests.support.replies import status_reply
from tests.support.second_provider import NAME, SecondProvider

ID = str(FIRST_ID)


@pytest.fixture
def second() -> SecondProvider:
    return SecondProvider(FIRST_ID)


@pytest.fixture
async def _second_is_allowed(sql: asyncpg.Connection) -> AsyncIterator[None]:
    """The database refuses to route to a provider that no migration let in: here as after that migration."""
    laws = await sql.fetch(
        "SELECT conrelid::regclass::text AS place, conname AS name, pg_get_constraintdef(oid) AS law"
        " FROM pg_constraint WHERE conname LIKE 'payment_config%provider_check'"
    )
    assert len(laws) == 2
    for law in laws:
        await sql.execute(f"ALTER TABLE {law['place']} DROP CONSTRAINT {law['name']}")
    yield
    await empty_tables(sql)
    for law in laws:
        await sql.execute(f"ALTER TABLE {law['place']} ADD CONSTRAINT {law['name']} {law['law']}")


@pytest.fixture
async def services(
    services: Services,
    settings: Settings,
    kept_open: Database,
    second: SecondProvider,
    wire: respx.MockRouter,
    _second_is_allowed: None,
) -> Services:
    """The services with both providers: one shop is routed to each, and the ids that both give begin with ``ID``."""
    providers = Registry()
    providers.register(DEFAULT, services.providers[DEFAULT], hint_secret="first")
    providers.register(NAME, second, hint_secret="second")
    both = build(settings, kept_open, providers)
    await two_shops(both)
    await both.routing.update(TESTS, OTHER_SHOP, {"provider": NAME})
    taking(wire)
    return both


@pytest.fixture
async def payments(services: Services) -> tuple[Payment, Payment]:
    """A payment of each provider."""
    first = await services.payments.create(ask())
    other = await services.payments.create(ask(shop_id=OTHER_SHOP))
    return first.payment, other.payment


async def due(sql: asyncpg.Connection) -> list[str]:
    """The providers of the payments that are to be asked about now."""
    return [row["provider"] for row in await sql.fetch("SELECT provider FROM payment WHERE next_check_at <= now()")]


def test_name_is_registered_once(services: Services) -> None:
    with pytest.raises(ValueError, match=NAME):
        services.providers.register(NAME, services.providers[NAME])


async def test_shop_is_routed_to_a_registered_provider_only(services: Services) -> None:
    with pytest.raises(InvalidInput, match=f"{DEFAULT}, {NAME}"):
        await services.routing.update(TESTS, SHOP, {"provider": "third"})


async def test_equal_ids_of_two_providers_are_two_payments(
    services: Services, payments: tuple[Payment, Payment]
) -> None:
    assert [(each.provider, each.external_id, each.state) for each in payments] == [
        (DEFAULT, ID, "pending"),
        (NAME, ID, "pending"),
    ]


@pytest.mark.usefixtures("payments")
async def test_each_provider_is_asked_about_its_own_payment(
    services: Services, second: SecondProvider, wire: respx.MockRouter
) -> None:
    wire.get("/status/").mock(return_value=status_reply(ID, "Wait"))
    second.words[ID] = "settled"
    read = [await services.reading.status(FULL_ACCESS, name, ID) for name in (DEFAULT, NAME)]
    assert [(each.provider, each.status) for each in read] == [(DEFAULT, "Wait"), (NAME, "settled")]
    assert [each.state for each in await payments_of(services)] == ["pending", "paid"]


async def test_payment_that_was_never_made_here_is_asked_about_at_the_provider_that_was_named(
    services: Services, second: SecondProvider, sql: asyncpg.Connection
) -> None:
    second.words["7"] = "settled"
    found = await services.reading.status(FULL_ACCESS, NAME, "7")
    assert isinstance(found, ForeignPayment)
    assert (found.provider, found.status) == (NAME, "settled")
    assert await sql.fetchval("SELECT provider FROM payment_log WHERE external_id = '7'") == NAME
    with pytest.raises(PaymentNotFound):
        await services.reading.status(FULL_ACCESS, "third", "7")


@pytest.mark.usefixtures("payments")
async def test_refund_goes_to_the_provider_of_the_payment(services: Services, second: SecondProvider) -> None:
    second.words[ID] = "settled"
    payment = await services.refunds.payment_of(FULL_ACCESS, OTHER_SHOP, NAME, ID)
    answer = await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money.from_tenge(10)))
    assert answer.refund.state == "succeeded"
    assert [refund.external_id for refund in second.refunds] == [ID]
    with pytest.raises(PaymentNotFound):
        await services.refunds.payment_of(FULL_ACCESS, OTHER_SHOP, DEFAULT, ID)


@pytest.mark.usefixtures("payments")
@pytest.mark.parametrize("name", [DEFAULT, NAME])
async def test_hint_moves_a_payment_of_its_provider_alone(
    services: Services, sql: asyncpg.Connection, name: str
) -> None:
    await services.polling.hint(name, ID)
    assert await due(sql) == [name]


@pytest.mark.usefixtures("payments")
async def test_report_is_of_the_provider_that_it_names(services: Services, sql: asyncpg.Connection) -> None:
    for shop_id, provider in ((SHOP, DEFAULT), (OTHER_SHOP, NAME), (SHOP, NAME)):
        report = Report(shop_id=shop_id, operation_type="status", external_id=ID, provider=provider)
        await services.reports.write(TESTS, report)
    kept = await sql.fetch(
        "SELECT payment.provider FROM payment_log LEFT JOIN payment ON payment.id = payment_id"
        " WHERE payment_log.source = 'client' ORDER BY payment_log.id"
    )
    assert [row["provider"] for row in kept] == [DEFAULT, NAME, None]
