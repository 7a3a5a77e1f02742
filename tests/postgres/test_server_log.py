"""PostgreSQL's own log: whoever runs it may have every statement in it, with its values, and finds no secret there."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from payment_service.access.attempts import SignInLimits
from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.access.sessions import Sessions
from payment_service.errors import ServiceError
from payment_service.events.relay import Relay
from payment_service.money import Money
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services
from payment_service.settings import Settings
from tests.conftest import ClientMaker
from tests.support.asking import SHOP, TESTS, ask
from tests.support.replies import GoodProxy

PHONE = "77012345678"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_stay_here": True})


@pytest.fixture
async def server_log(sql: asyncpg.Connection) -> AsyncIterator[Callable[[], str]]:
    """Everything that the server logs from here on: every statement with its values, and why one failed."""
    log = Path(await sql.fetchval("SHOW data_directory")).parent / "server.log"
    begins = log.stat().st_size
    chatty = {"log_statement": "'all'", "log_min_duration_statement": "0", "log_error_verbosity": "'verbose'"}
    for name, value in chatty.items():
        await sql.execute(f"ALTER SYSTEM SET {name} = {value}")
    await sql.execute("SELECT pg_reload_conf()")
    yield lambda: log.read_bytes()[begins:].decode(errors="replace")
    for name in chatty:
        await sql.execute(f"ALTER SYSTEM RESET {name}")
    await sql.execute("SELECT pg_reload_conf()")


@pytest.mark.thorough  # the server of all tests tells everything meanwhile
@pytest.mark.usefixtures("quick_hashes", "shops")
async def test_log_of_every_statement_holds_no_secret(
    services: Services, proxy: GoodProxy, make_client: ClientMaker, server_log: Callable[[], str]
) -> None:
    token, password, header = str(uuid4()), f"p{secrets.token_hex(12)}", secrets.token_hex(12)
    # Keys, and what is said with one.
    made = await services.access.create("probe", list(Scope), shops=ALL_SHOPS)
    client = make_client(made.key)
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": token})
    body = {"shop_id": SHOP, "amount": 100, "phone": PHONE, "message": "x", "order_id": "1"}
    for _ in range(2):  # the second time the order is in the way
        await client.post("/payments/kaspi/create", json=body)
    await client.post("/payments/kaspi/create", json={**body, "phone": "7", "order_id": "\u0000"})
    payment = (await services.payments.create(ask(phone=PHONE))).payment
    proxy.statuses[str(payment.external_id)] = "Processed"
    payment = await services.reading.refresh(payment)
    with suppress(ServiceError):
        await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money.from_tenge(10)))
    report = {"shop_id": SHOP, "operation_type": "create", "error_message": f"GET /?phone={PHONE}&access_token={token}"}
    await client.post("/api/payment/log", json=report)
    # Webhooks, which are called.
    endpoint = await services.endpoints.add(
        FULL_ACCESS, {"url": "http://127.0.0.1:9009/hook", "headers": {"Authorization": f"Bearer {header}"}}
    )
    rotated = await services.endpoints.rotate_secret(FULL_ACCESS, endpoint.endpoint.id, keep_old_s=60)
    await Relay(services.database, [services.deliveries.consume]).pass_on()
    for turn in await services.deliveries.claim(5):
        await services.deliveries.perform(turn)
    # People.
    sessions = Sessions(services.database, SignInLimits(services.database))
    person = await services.people.add("probe@example.kz", "P", Role.ADMIN, ALL_SHOPS)
    link = str(await services.people.link(person.id))
    await services.people.set_password(link, password)
    with suppress(ServiceError):
        await sessions.sign_in(person.email, password + "x", address="198.51.100.1")
    session = await sessions.sign_in(person.email, password, address="198.51.100.1")
    await sessions.prove(await sessions.of(session), password, address="198.51.100.1")
    found = [
        name
        for name, secret in {
            "API key": made.key,
            "device token": token,
            "phone": PHONE[1:],
            "webhook secret": endpoint.secret.removeprefix("whsec_"),
            "new webhook secret": rotated.secret.removeprefix("whsec_"),
            "header": header,
            "link": link,
            "password": password,
            "session": session,
            "access token": services.settings.kaspi.access_token,
            "encryption key": services.settings.encryption_keys[0].get_secret_value(),
        }.items()
        if secret in server_log()
    ]
    assert not found
    assert person.email in server_log()  # values are in it
