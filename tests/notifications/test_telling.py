"""From an event to a chat: once, in order, within the limits, again when it failed, and the record of it all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.notifications import results, service
from payment_service.notifications.bindings import BindingRequest
from payment_service.notifications.channel import Delivery, Sent
from payment_service.notifications.texts import Note
from payment_service.postgres.database import constraint_of
from payment_service.services import Services
from payment_service.worker.service import worker_over
from tests.notifications.conftest import CHAT, BotApi
from tests.support.alarms import alarms
from tests.support.database import without_laws
from tests.support.due_work import work_off
from tests.support.mailbox import Mailbox
from tests.support.shops import SHOPS

pytestmark = pytest.mark.usefixtures("two_shops")
SHOP, OTHER_SHOP = 121038, 576631
PAID = [EventType.PAYMENT_PAID]


@pytest.fixture
async def two_shops(services: Services) -> None:
    for shop_id in (SHOP, OTHER_SHOP):
        await services.routing.create(FULL_ACCESS, shop_id, {"organization_bin": SHOPS[shop_id]})


async def bind(services: Services, address: str = CHAT, shop_id: int | None = SHOP, **more: Any) -> UUID:
    """Bind a chat; the chat's id."""
    request: dict[str, Any] = {"channel": "telegram", "events": PAID, **more}
    bound = await services.bindings.add(FULL_ACCESS, BindingRequest(address=address, shop_id=shop_id, **request))
    return bound.chat.id


async def happens(
    services: Services, *orders: str, kind: EventType = EventType.PAYMENT_PAID, shop_id: int = SHOP, **more: Any
) -> None:
    """Events are written, one per order, and passed on."""
    for order in orders:
        data = {"id": str(new_id()), "amount": 17500, "order_id": order, "phone_last4": "4567", **more}
        async with services.database.transaction() as session:
            outbox.write(session, kind, new_id(), version=1, shop_id=shop_id, data=data)
    await worker_over(services).relay.pass_on()


async def due(sql: asyncpg.Connection) -> None:
    """Time passes until every chat may be told again."""
    await sql.execute("UPDATE notify_chat SET next_send_at = now() - interval '1 minute'")


async def tell(services: Services, sql: asyncpg.Connection, times: int = 1) -> None:
    """So many turns of every chat that has something to be told."""
    for _ in range(times):
        await due(sql)
        for turn in await services.notifications.claim(60):
            await services.notifications.perform(turn)


async def grow_old(sql: asyncpg.Connection, tries: int = 0) -> None:
    """All messages are older than a day, and were tried so often."""
    async with without_laws(sql):
        await sql.execute("UPDATE notify_message SET created_at = now() - interval '25 hours', tries = $1", tries)


async def states(sql: asyncpg.Connection) -> list[str]:
    return [row["state"] for row in await sql.fetch("SELECT state FROM notify_message ORDER BY event_id, chat_id")]


async def orders(bot_api: BotApi) -> list[str]:
    return [text.partition("заказ ")[2].partition(" ·")[0] for text in await bot_api.texts()]


async def pause_s(sql: asyncpg.Connection) -> float:
    """How long the chat waits from its last try on."""
    return float(
        await sql.fetchval(
            "SELECT extract(epoch FROM next_send_at - tried_at) FROM notify_chat"
            " JOIN notify_message ON chat_id = notify_chat.id ORDER BY tried_at DESC NULLS LAST LIMIT 1"
        )
    )


# --- whom


async def test_paid_is_told_to_the_chat_of_the_shop(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await services.routing.update(FULL_ACCESS, SHOP, {"name": "Eileen flowers"})
    await happens(services, "12345")
    await work_off(services.notifications)
    [message] = await bot_api.messages()
    first, second = message["text"].replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert first == "<b>Оплачено 17 500 ₸</b> · Eileen flowers · заказ 12345 · •••4567"
    assert second.startswith('<a href="https://pay.example.kz/console/payments/')
    assert await states(sql) == ["sent"]
    assert await sql.fetchval("SELECT channel_message_id FROM notify_message") == str(message["message_id"])


async def test_only_what_a_chat_is_bound_to_is_told(services: Services, sql: asyncpg.Connection) -> None:
    mine, everything = (
        await bind(services),
        await bind(services, "-200", None, events=[*PAID, EventType.PAYMENT_UNKNOWN]),
    )
    await happens(services, "1")
    await happens(services, "2", shop_id=OTHER_SHOP)
    await happens(services, "3", kind=EventType.PAYMENT_UNKNOWN)
    await happens(services, "4", kind=EventType.PAYMENT_PENDING)
    counts = await sql.fetch("SELECT chat_id, count(*) AS told FROM notify_message GROUP BY chat_id")
    assert {row["chat_id"]: row["told"] for row in counts} == {mine: 1, everything: 3}
    newcomer = await bind(services, "-300")
    await happens(services, "5")
    told = await sql.fetchval("SELECT count(*) FROM notify_message WHERE chat_id = $1", newcomer)
    assert told == 1  # and nothing of what was before


async def test_what_is_switched_off_is_not_told(services: Services, sql: asyncpg.Connection) -> None:
    await bind(services)
    [bound] = await services.bindings.all(FULL_ACCESS)
    await services.bindings.change(FULL_ACCESS, bound.binding.id, {"is_active": False})
    await happens(services, "1")
    assert await states(sql) == []


async def test_chat_of_a_shop_is_told_nothing_of_its_earlier_owner(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    kinds = [*PAID, EventType.REFUND_SUCCEEDED]
    chat_id, of_all = await bind(services, events=kinds), await bind(services, "-200", None)
    await happens(services, "waits", organization_bin=SHOPS[SHOP])
    await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER_SHOP], "device_token": None})
    await happens(services, "late", organization_bin=SHOPS[SHOP])
    await happens(services, "back", kind=kinds[-1], payment={"organization_bin": SHOPS[SHOP]})
    await happens(services, "own", organization_bin=SHOPS[OTHER_SHOP])
    await tell(services, sql, 3)
    of_shop = Caller("shop", FULL_ACCESS.scopes, frozenset({SHOP}))
    told = await services.message_record.of_chat(of_shop, chat_id)
    assert [(one.event.data["order_id"], one.message.state) for one in told] == [("own", "sent")]
    assert sorted(await orders(bot_api)) == ["late", "own", "own", "waits"]
    assert await sql.fetchval("SELECT count(*) FROM notify_message WHERE chat_id = $1", chat_id) == 2  # "waits" is dead
    assert await services.message_record.waiting(of_shop, [chat_id, of_all]) == {}


@pytest.mark.parametrize("change", [{"is_active": False}, {"events": [EventType.PAYMENT_UNKNOWN]}], ids=str)
async def test_chat_is_not_told_what_it_is_not_bound_to_any_more(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection, change: dict[str, Any]
) -> None:
    """A message that waits must not reach the people of another seller, or who left."""
    chat_id = await bind(services)
    await bind(services, shop_id=OTHER_SHOP)
    await bot_api.goes_wrong("too_many", value=1)
    await happens(services, "12345")
    await tell(services, sql)
    await happens(services, "54321", shop_id=OTHER_SHOP)
    [bound] = [one for one in await services.bindings.all(FULL_ACCESS) if one.binding.shop_id == SHOP]
    await services.bindings.change(FULL_ACCESS, bound.binding.id, change)
    await bind(services, "-300")  # others are
    await tell(services, sql, 2)
    assert await orders(bot_api) == ["54321"]
    told = await services.message_record.of_chat(FULL_ACCESS, chat_id, not_sent=True)
    assert [(one.message.state, one.message.reason) for one in told] == [
        ("dead", "the chat is not bound to this any more")
    ]


async def test_chat_that_is_bound_twice_is_told_once_in_the_shops_language(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    chat_id = await bind(services, shop_id=None, language="en")
    assert await bind(services, language="kk") == chat_id
    await happens(services, "1")
    await tell(services, sql, times=2)
    [text] = await bot_api.texts()
    assert text.startswith("<b>Төленді")


async def test_event_of_no_shop_is_told_to_those_of_all_shops(services: Services, sql: asyncpg.Connection) -> None:
    kinds = [EventType.ENDPOINT_DISABLED]
    await bind(services, events=kinds)
    everything = await bind(services, "-200", None, events=kinds)
    async with services.database.transaction() as session:
        outbox.write(session, kinds[0], "1", version=1, shop_id=None, data={"url": "https://shop.example.kz/"})
    await worker_over(services).relay.pass_on()
    assert [row[0] for row in await sql.fetch("SELECT chat_id FROM notify_message")] == [everything]


# --- once


async def test_message_is_sent_once_however_many_workers_there_are(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await asyncio.gather(*(work_off(services.notifications) for _ in range(5)))
    await tell(services, sql, times=3)
    assert len(await bot_api.calls()) == 1


async def test_event_that_is_passed_on_twice_is_told_once(services: Services, sql: asyncpg.Connection) -> None:
    await bind(services)
    await happens(services, "1")
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE event SET passed_on_at = NULL")
    await worker_over(services).relay.pass_on()
    assert await states(sql) == ["waiting"]


async def test_lost_answer_may_repeat_a_message_and_never_loses_it(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("lost")
    await tell(services, sql)
    assert await states(sql) == ["failed"]
    await tell(services, sql)
    assert await orders(bot_api) == ["1", "1"]
    assert await states(sql) == ["sent"]


async def test_message_of_a_worker_that_died_is_sent_again(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    [_dying] = await services.notifications.claim(60)
    assert await work_off(services.notifications) == 0
    assert await bot_api.calls() == []
    await due(sql)
    assert await work_off(services.notifications) == 1
    assert await orders(bot_api) == ["1"]


@pytest.mark.parametrize("course", [None, "failing", "too_many"])
async def test_what_was_planned_while_the_clock_was_ahead_is_told_now(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection, course: str | None
) -> None:
    await bind(services)
    await happens(services, "1")
    if course:
        await bot_api.goes_wrong(course, value=3600)
        await work_off(services.notifications)
    else:
        [_] = await services.notifications.claim(60)  # and the worker dies
    await sql.execute("UPDATE notify_chat SET next_send_at = greatest(next_send_at, now() + interval '30 s')")
    assert await services.notifications.bring_forward() == 0
    assert await services.notifications.claim(60) == []
    # The clock, which was ahead by a day, is set right.
    await sql.execute("UPDATE notify_chat SET next_send_at = next_send_at + interval '1 day'")
    await sql.execute("UPDATE notify_message SET tried_at = tried_at + interval '1 day'")
    await sql.execute("UPDATE notify_pace SET free_at = free_at + interval '1 day'")
    assert await services.notifications.claim(60) == []
    assert await services.notifications.bring_forward() == 1
    await work_off(services.notifications)
    assert await orders(bot_api) == ["1"]


async def test_messages_that_wait_are_counted_within_the_shops_of_who_looks(services: Services) -> None:
    chat = await bind(services, shop_id=None)
    await happens(services, "1", "2", shop_id=OTHER_SHOP)
    await happens(services, "3")
    waiting = services.message_record.waiting
    assert await waiting(FULL_ACCESS, [chat]) == {chat: 3}
    assert await waiting(replace(FULL_ACCESS, shops=frozenset({SHOP})), [chat]) == {chat: 1}
    assert await waiting(replace(FULL_ACCESS, shops=frozenset()), [chat]) == {}


async def test_event_of_a_newer_version_keeps_no_other_chat_waiting_and_lets_later_ones_pass(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(kind: str) -> EventType:
        if kind == EventType.PAYMENT_FAILED:
            raise ValueError(kind)
        return EventType(kind)

    monkeypatch.setattr(service, "EventType", known)
    await bind(services, events=[EventType.PAYMENT_FAILED, EventType.PAYMENT_PAID])
    await happens(services, "new", kind=EventType.PAYMENT_FAILED)
    await bind(services, "-100456")
    await happens(services, "old")
    await tell(services, sql)
    assert await orders(bot_api) == ["old"]
    await tell(services, sql, times=service.LETS_PASS_AFTER)
    assert await orders(bot_api) == ["old", "old"]
    assert sorted(await states(sql)) == ["sent", "sent", "waiting"]


async def test_answer_that_comes_after_the_lease_is_still_written_down(
    services: Services, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1", "2")
    [late] = await services.notifications.claim(60)
    await due(sql)
    [_newer] = await services.notifications.claim(60)
    lease = await sql.fetchval("SELECT next_send_at FROM notify_chat")
    for _ in range(2):  # the answer to the COMMIT may be what was lost
        await services.notifications._write(late, Sent("7"))
    assert await states(sql) == ["sent", "waiting"]
    assert await sql.fetchval("SELECT next_send_at FROM notify_chat") == lease


# --- in order, within the limits


async def test_messages_of_a_chat_come_one_a_turn_oldest_first(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1", "2", "3")
    await work_off(services.notifications)
    await work_off(services.notifications)  # out of turn
    assert await orders(bot_api) == ["1"]
    await tell(services, sql, times=2)
    assert await orders(bot_api) == ["1", "2", "3"]


async def test_next_message_to_a_chat_leaves_a_second_later(services: Services, sql: asyncpg.Connection) -> None:
    await bind(services)
    await happens(services, "1", "2")
    await work_off(services.notifications)
    sent_at = await sql.fetchval("SELECT max(sent_at) FROM notify_message")
    next_send_at = await sql.fetchval("SELECT next_send_at FROM notify_chat")
    assert next_send_at - sent_at >= timedelta(seconds=1)
    assert 0 < (await services.notifications.due_in_s() or 0) <= (next_send_at - sent_at).total_seconds()


async def test_thirty_a_second_leave_in_all(services: Services) -> None:
    telegram = services.notifications.channels["telegram"]
    async with services.database.transaction() as session:  # in which the database's clock stands still
        waits = [await services.notifications._reserve_slot(session, telegram, "telegram") for _ in range(70)]
    given = [wait_s for wait_s in waits if wait_s is not None]
    assert given == pytest.approx([number / 30 for number in range(len(given))], abs=0.001)
    assert given[-1] <= service.MAX_WAIT_S
    assert waits[len(given) :] == [None] * (70 - len(given))
    assert 0 < len(given) < 70


async def test_message_that_gets_no_place_in_the_pace_comes_again(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await sql.execute("INSERT INTO notify_pace VALUES ('telegram', now() + interval '1 hour')")
    assert await work_off(services.notifications) == 0
    assert 0 < (await services.notifications.due_in_s() or 0) <= 1.5 * service.MAX_WAIT_S
    await sql.execute("UPDATE notify_pace SET free_at = now()")
    await tell(services, sql)
    assert await orders(bot_api) == ["1"]
    assert await sql.fetchval("SELECT tries FROM notify_message") == 1


async def test_wait_that_the_bot_api_asks_for_is_kept(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("too_many", value=34)
    await work_off(services.notifications)
    assert 34 < await pause_s(sql) < 40
    await tell(services, sql)
    assert await orders(bot_api) == ["1"]


async def test_wait_of_one_chat_keeps_no_other_waiting(services: Services, bot_api: BotApi) -> None:
    await bind(services)
    await bind(services, "-200")
    await happens(services, "1")
    await bot_api.goes_wrong("too_many", value=34)
    assert await work_off(services.notifications) == 2
    assert len(await bot_api.messages()) == 1


# --- when it fails


async def test_pauses_between_tries_grow(services: Services, bot_api: BotApi, sql: asyncpg.Connection) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("failing", times=len(results.PAUSES_S) + 2)
    for least_s in (*results.PAUSES_S, results.PAUSES_S[-1]):
        await tell(services, sql)
        assert least_s <= await pause_s(sql) <= 1.5 * least_s + 1
    assert await sql.fetchrow("SELECT state, tries, reason FROM notify_message") == (
        "failed",
        len(results.PAUSES_S) + 1,
        "telegram: 502 Bad Gateway",
    )


async def test_first_success_ends_the_long_pauses(services: Services, bot_api: BotApi, sql: asyncpg.Connection) -> None:
    await bind(services)
    await happens(services, "1", "2")
    await bot_api.goes_wrong("failing", times=4)
    await tell(services, sql, times=5)
    assert await pause_s(sql) < 2


async def test_message_that_failed_for_a_day_is_dead_and_stays_in_the_record(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    before = alarms("message_dead")
    await happens(services, "1")
    await grow_old(sql, tries=results.GIVE_UP_TRIES - 1)
    await bot_api.goes_wrong("failing")
    await tell(services, sql, times=2)
    assert await states(sql) == ["dead"]
    assert alarms("message_dead") == before + 1
    for change in ("UPDATE notify_message SET state = 'waiting'", "DELETE FROM notify_message"):
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await sql.execute(change)
        assert constraint_of(caught.value) == "notify_message_fixed"


async def test_message_that_is_old_because_no_worker_ran_survives_failures(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1", "2")
    await grow_old(sql)
    await bot_api.goes_wrong("failing")
    await tell(services, sql, times=3)
    assert await orders(bot_api) == ["1", "2"]


async def test_chat_that_nothing_reaches_for_a_day_keeps_the_messages_of_one_day(
    services: Services, sql: asyncpg.Connection
) -> None:
    await bind(services)
    before = alarms("message_dead")
    await happens(services, "1", "2", "3")
    await grow_old(sql)
    await happens(services, "4", "5")
    services.notifications.channels.pop("telegram")
    await sql.execute("UPDATE notify_chat SET failures = $1", results.GIVE_UP_TRIES - 2)
    await tell(services, sql)
    assert await states(sql) == ["failed", *["waiting"] * 4]
    await tell(services, sql)
    assert await states(sql) == [*["dead"] * 3, "waiting", "waiting"]
    assert alarms("message_dead") == before + 1


async def test_message_that_is_refused_is_dead_and_the_next_one_goes(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1", "2")
    await bot_api.goes_wrong("bad_text")
    await tell(services, sql, times=2)
    assert await states(sql) == ["dead", "sent"]


async def test_message_that_always_fails_holds_up_no_other(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1", "2", "3")
    await bot_api.goes_wrong("failing", times=service.LETS_PASS_AFTER)
    await tell(services, sql, times=service.LETS_PASS_AFTER + 3)
    assert await orders(bot_api) == ["2", "3", "1"]


async def test_event_that_nobody_can_put_into_words_holds_up_no_other(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    async with services.database.transaction() as session:
        outbox.write(session, PAID[0], "1", version=1, shop_id=SHOP, data={"amount": "much"})
    await happens(services, "2")
    await tell(services, sql, times=2)
    assert await states(sql) == ["dead", "sent"]


# --- chats that end and move


@pytest.mark.parametrize(("course", "words"), [("blocked", "bot was blocked"), ("not_found", "chat not found")])
async def test_chat_that_is_gone_is_disabled_and_says_so(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection, course: str, words: str
) -> None:
    await bind(services)
    await bind(services, "-200")
    before = alarms("chat_disabled")
    await happens(services, "1", "2")
    await bot_api.goes_wrong(course, chat_id=CHAT)
    await tell(services, sql, times=2)
    [gone, well] = await services.bindings.all(FULL_ACCESS)
    assert words in (gone.chat.disabled_reason or "")
    assert well.chat.disabled_at is None
    assert alarms("chat_disabled") == before + 1
    assert sorted(await states(sql)) == ["dead", "dead", "sent", "sent"]


async def test_record_says_who_was_not_told_while_a_chat_was_disabled(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("blocked")
    await tell(services, sql)
    await happens(services, "2")
    await tell(services, sql)
    assert await states(sql) == ["dead", "dead"]
    assert "blocked" in await sql.fetchval("SELECT reason FROM notify_message ORDER BY event_id DESC LIMIT 1")
    assert len(await bot_api.calls()) == 1


async def test_test_that_arrives_ends_what_kept_a_chat_disabled(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("blocked")
    await tell(services, sql)
    [bound] = await services.bindings.all(FULL_ACCESS)
    assert (await services.bindings.send_test(FULL_ACCESS, bound.binding.id)).chat.disabled_at is None
    await happens(services, "2")
    await tell(services, sql)
    assert await orders(bot_api) == ["", "2"]


async def test_group_that_became_a_supergroup_is_told_at_its_new_address(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    await bot_api.goes_wrong("moved", value=-1009876543210)
    await tell(services, sql, times=2)
    assert [message["chat_id"] for message in await bot_api.messages()] == ["-1009876543210"]
    assert await states(sql) == ["sent"]


async def test_group_that_moved_where_another_one_is_bound_is_disabled(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    chat_id = await bind(services)
    await bind(services, "-1009876543210")
    await happens(services, "1")
    await bot_api.goes_wrong("moved", chat_id=CHAT, value=-1009876543210)  # both are due, in any order
    await tell(services, sql, times=2)
    assert await sql.fetchval("SELECT disabled_reason FROM notify_chat WHERE id = $1", chat_id)
    assert sorted(await states(sql)) == ["dead", "sent"]


# --- other channels, races


async def test_mail_is_told_by_the_same_way(services: Services, mailbox: Mailbox, sql: asyncpg.Connection) -> None:
    await bind(services, "anna@shop.example.kz", channel="email")
    await happens(services, "12345")
    await tell(services, sql, times=2)
    [envelope] = mailbox.mails
    assert envelope.rcpt_tos == ["anna@shop.example.kz"]
    assert await states(sql) == ["sent"]


async def test_channel_that_is_not_set_up_yet_keeps_its_messages(
    services: Services, bot_api: BotApi, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    telegram = services.notifications.channels.pop("telegram")
    await tell(services, sql)
    assert await sql.fetchrow("SELECT state, reason FROM notify_message") == (
        "failed",
        "telegram is not set up: TELEGRAM_BOT_TOKEN is missing",
    )
    services.notifications.channels["telegram"] = telegram
    await tell(services, sql)
    assert await orders(bot_api) == ["1"]


class Slow:
    """A channel whose answer comes when the test says so."""

    chat_pause_s = 0.0
    pause_s = 0.0

    def __init__(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.meanwhile = meanwhile

    async def send(self, address: str, note: Note, *, key: str) -> Delivery:
        await self.meanwhile()
        return Sent()

    async def close(self) -> None:
        pass


async def nothing() -> None:
    """Nothing happens meanwhile."""


async def test_event_that_comes_while_a_message_is_under_way_gets_its_turn_at_once(
    services: Services, sql: asyncpg.Connection
) -> None:
    await bind(services)
    await happens(services, "1")
    before = services.notifications.channels["telegram"]
    slow = Slow(lambda: happens(services, "2"))
    services.notifications.channels["telegram"] = slow
    [turn] = await services.notifications.claim(60)
    await services.notifications.perform(turn)
    slow.meanwhile = nothing
    assert await work_off(services.notifications) == 1
    services.notifications.channels["telegram"] = before
    assert await states(sql) == ["sent", "sent"]
