"""The composition of the services: the only module that knows all of them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from payment_service.access.attempts import SignInLimits
from payment_service.access.openid import OpenId
from payment_service.access.people import People
from payment_service.access.service import Access, Caller
from payment_service.access.sessions import Sessions
from payment_service.events.relay import events_waiting_since
from payment_service.events.subscriptions import Subscriptions
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.idempotency.holding import Holding
from payment_service.idempotency.outcomes import OutcomeWriter
from payment_service.notifications.bindings import Bindings
from payment_service.notifications.channel import Channels
from payment_service.notifications.links import Links
from payment_service.notifications.record import MessageRecord
from payment_service.notifications.service import Notifications, messages_waiting_since
from payment_service.notifications.telegram import Telegram
from payment_service.outbound.addresses import DEVELOPMENT, PRODUCTION
from payment_service.outbound.client import Outbound
from payment_service.payments.moves import Moves
from payment_service.payments.phones import PhoneLimit
from payment_service.payments.polling import Polling, readings_due_since
from payment_service.payments.reading import PaymentReading
from payment_service.payments.service import Payments
from payment_service.payments.settling import TASKS_AT_MOST, Settling
from payment_service.payments.shared_readings import SHARED_FOR_S, SharedReadings
from payment_service.postgres.database import Database
from payment_service.postgres.vault import Vault, VaultError
from payment_service.providers import kaspi
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.registry import Registry
from payment_service.refunds.moves import RefundMoves
from payment_service.refunds.service import Refunds
from payment_service.refunds.settling import RefundSettling
from payment_service.refunds.views import Task
from payment_service.reports.service import Reports
from payment_service.routing.changes import RouteChanges
from payment_service.routing.service import Routing
from payment_service.routing.tokens import DeviceTokens
from payment_service.scheduling.operations import InFlight
from payment_service.settings import Settings
from payment_service.webhooks.delivery import Deliveries, deliveries_waiting_since
from payment_service.webhooks.endpoints import Endpoints
from payment_service.webhooks.record import DeliveryRecord


@dataclass(frozen=True, slots=True)
class Services:
    """Every service of this process, wired to the others."""

    settings: Settings
    database: Database
    vault: Vault
    fingerprints: Fingerprints
    holding: Holding
    routing: Routing
    route_changes: RouteChanges
    access: Access
    people: People
    links: Links
    sessions: Sessions
    openid: OpenId | None
    """None when no OpenID provider is set up."""
    providers: Registry
    payments: Payments
    reading: PaymentReading
    polling: Polling
    settling: Settling
    reports: Reports
    refunds: Refunds
    refund_settling: RefundSettling
    endpoints: Endpoints
    deliveries: Deliveries
    delivery_record: DeliveryRecord
    notifications: Notifications
    bindings: Bindings
    message_record: MessageRecord
    subscriptions: Subscriptions
    inflight: InFlight

    async def tasks(self, caller: Caller, *, limit: int = TASKS_AT_MOST) -> list[Task]:
        """The tasks in the caller's shops, oldest first; at most ``limit`` payments and as many refunds."""
        payments = await self.settling.tasks(caller, limit=limit)
        refunds = await self.refund_settling.tasks(caller, limit=limit)
        found = [Task.of_payment(payment) for payment in payments]
        found += [Task.of_refund(refund, payment) for refund, payment in refunds]
        return sorted(found, key=lambda task: task.since)

    async def subjects_of(self, payment_id: UUID) -> list[str]:
        """The subjects of the events of a payment and its refunds: their ids."""
        return [str(payment_id), *(str(refund.id) for refund in await self.refunds.of_payment(payment_id))]

    async def due_since(self) -> dict[str, datetime | None]:
        """By the kind of work, when the oldest due row became due; none for none."""
        async with self.database.reading() as session:
            return {
                "readings": await readings_due_since(session),
                "events": await events_waiting_since(session),
                "deliveries": await deliveries_waiting_since(session),
                "messages": await messages_waiting_since(session),
            }

    async def check_secrets(self) -> list[int]:
        """Decrypt what is encrypted in the database; returns the shops whose device token alone cannot be decrypted.

        Raises:
            VaultError: when ENCRYPTION_KEYS are not those of this database: they decrypt no device token, or not the
                key of the fingerprints.
        """
        unreadable, tokens = await self.routing.unreadable_tokens()
        if unreadable and len(unreadable) == tokens:
            raise VaultError("None of the ENCRYPTION_KEYS opens a device token: use the key that wrote them.")
        await self.fingerprints.of()
        return unreadable

    async def rotate_keys(self) -> tuple[int, int]:
        """Encrypt every secret anew with the newest key, while the service runs.

        Returns how many device tokens were, and how many stay as they are because no key opens them.

        Raises:
            VaultError: when ENCRYPTION_KEYS are not those of this database.
        """
        async with self.database.transaction() as session:
            await self.fingerprints.rotate(session)
            await self.endpoints.rotate(session)
            return await self.routing.tokens.rotate(session)

    async def close(self) -> None:
        """Give back every connection."""
        for provider in self.providers.values():
            await provider.close()
        for channel in self.notifications.channels.values():
            await channel.close()
        await self.database.close()


def build(settings: Settings, database: Database | None = None, providers: Registry | None = None) -> Services:
    """Make the services and connect them. What is left out is made from the settings."""
    database = database or Database(settings.session_url, pool_size=settings.database_pool_size)
    providers = providers or _providers(settings)
    vault = Vault([key.get_secret_value() for key in settings.encryption_keys])
    routing = Routing(database, DeviceTokens(vault), tuple(providers))
    fingerprints = Fingerprints(database, vault)
    access = Access(database)
    people = People(database)
    sessions = Sessions(database, SignInLimits(database, on=settings.rate_limits))
    inflight = InFlight()
    outcomes = OutcomeWriter()
    moves = Moves(database, providers, settings.follow)
    rules = settings.payments
    phones = PhoneLimit(*settings.rates.invoices_to_phone)
    payments = Payments(database, routing, providers, fingerprints, inflight, outcomes, moves, rules, phones)
    shared = SharedReadings(SHARED_FOR_S if settings.rate_limits else 0)
    reading = PaymentReading(database, providers, moves, shared)
    refund_moves = RefundMoves(database)
    refunds = Refunds(database, routing, reading, providers, fingerprints, inflight, outcomes, refund_moves, rules)
    outbound = Outbound(DEVELOPMENT if settings.webhooks_stay_here else PRODUCTION)
    endpoints = Endpoints(database, vault, outbound)
    deliveries = Deliveries(database, endpoints, settings.delivery)
    notifications = Notifications(database, _channels(settings), settings.console_url)
    return Services(
        settings=settings,
        database=database,
        vault=vault,
        fingerprints=fingerprints,
        holding=Holding(database, None if settings.provider_is_here else settings.production_api_url),
        routing=routing,
        route_changes=RouteChanges(database, routing),
        access=access,
        people=people,
        links=Links(people, notifications),
        sessions=sessions,
        openid=OpenId(settings.openid, vault, sessions) if settings.openid else None,
        providers=providers,
        payments=payments,
        reading=reading,
        polling=Polling(database, providers, moves, rules.sending_lease_s, settings.kaspi.max_readings),
        settling=Settling(database, providers, moves, rules),
        reports=Reports(database, providers),
        refunds=refunds,
        refund_settling=RefundSettling(database, refund_moves, rules),
        endpoints=endpoints,
        deliveries=deliveries,
        delivery_record=DeliveryRecord(database, endpoints),
        notifications=notifications,
        bindings=Bindings(database, notifications),
        message_record=MessageRecord(database),
        subscriptions=Subscriptions(
            database,
            access,
            per_key=settings.waiting_per_key,
            in_all=settings.waiting_in_all,
            connections=max(1, settings.database_pool_size // 10),
        ),
        inflight=inflight,
    )


def _providers(settings: Settings) -> Registry:
    """The providers that are set up."""
    providers = Registry()
    providers.register(kaspi.NAME, KaspiClient(settings.kaspi), hint_secret=settings.kaspi.hint_secret)
    return providers


def _channels(settings: Settings) -> Channels:
    """The channels to people that are set up."""
    channels: Channels = {}
    if settings.telegram is not None:
        channels["telegram"] = Telegram(settings.telegram)
    if settings.email is not None:
        from payment_service.notifications.email import Email  # noqa: PLC0415 - its library is for those who mail

        channels["email"] = Email(settings.email)
    return channels


def serving_database(settings: Settings) -> Database:
    """The database as ``serve`` uses it, by a pooler that shares sessions where DATABASE_DIRECT_URL is set."""
    direct = settings.database_direct_url
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        direct_url=direct.get_secret_value() if direct else None,
    )


@contextlib.asynccontextmanager
async def open_services(settings: Settings, database: Database | None = None) -> AsyncIterator[Services]:
    """The services, closed at the end: for commands."""
    services = build(settings, database)
    try:
        yield services
    finally:
        await services.close()
