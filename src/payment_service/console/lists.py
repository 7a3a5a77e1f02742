"""The pages with lists: search with the newest payments, and the tasks for people."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.responses import Response

from payment_service.access.people import Right
from payment_service.console.payment_status import payment_status
from payment_service.console.web import HOME, PageContext, redirect
from payment_service.errors import InvalidInput
from payment_service.languages import mark
from payment_service.payments import queries
from payment_service.payments.queries import PaymentFilter
from payment_service.payments.search import AMOUNTS_WITHIN, find
from payment_service.payments.views import PaymentLine
from payment_service.reconciliation.turnover import names_of_shops
from payment_service.refunds.views import Task, TaskKind

AT_ONCE: Final = 25
TASKS_ON_SEARCH: Final = 3
MAX_TASKS: Final = 50
"""How many are counted; beyond that the page only says that there are more."""
TASKS_ON_PAGE: Final = 25
TODO: Final[Mapping[TaskKind, tuple[str, str]]] = {
    "unknown_payment": (
        mark("Payment: outcome unknown"),
        mark("Look for the code in the seller's Kaspi cabinet and say what you found."),
    ),
    "unread_payment": (
        mark("Payment: Kaspi does not answer"),
        mark("Its id is known and Kaspi is asked again and again. Look into the cabinet if that takes long."),
    ),
    "unknown_refund": (
        mark("Refund: outcome unknown"),
        mark("Look in the seller's Kaspi cabinet whether the money went back, and say what you found."),
    ),
    "open_payment": (
        mark("Payment: open for too long"),
        mark("Nobody asks about it any more. Ask Kaspi now, or look into the cabinet."),
    ),
}
"""The title of each kind of task, and what to do."""
_CURSOR: Final = re.compile(r"[A-Za-z0-9_=-]{1,200}")


async def search(context: PageContext) -> Response:
    """Search: one box, the first tasks, and the newest payments."""
    wanted, caller = context.query("q"), context.me.caller
    cursor = cursor_of(context)
    next_cursor, more = None, False
    if wanted:
        found = await find(context.services.database, caller.shops, wanted, limit=AT_ONCE)
        if found.exact and not context.is_partial:
            return redirect(f"{HOME}/payments/{found.payments[0].id}")
        payments, more = found.payments, found.more
    else:
        async with context.services.database.reading() as session:
            page = await queries.search(session, PaymentFilter(shops=caller.shops), limit=AT_ONCE, cursor=cursor)
        payments, next_cursor = list(page.rows), page.next_cursor
    lines = [PaymentLine.of(payment) for payment in payments]
    waiting: list[Task] = [] if wanted or cursor else await context.services.tasks(caller, limit=MAX_TASKS + 1)
    tasks_shown = waiting[:TASKS_ON_SEARCH]
    return context.page(
        "search.html",
        wanted=wanted,
        lines=[(line, payment_status(line)) for line in lines],
        sellers=await sellers(context, (*(line.shop_id for line in lines), *(task.shop_id for task in tasks_shown))),
        next_cursor=next_cursor,
        is_first=not cursor,
        more=more,
        tasks=waiting,
        tasks_shown=tasks_shown,
        todo=TODO,
        sums_of_days=AMOUNTS_WITHIN.days,
        may_read_record=context.me.may(Right.RECORD),
    )


def cursor_of(context: PageContext) -> str | None:
    """The cursor of the address; none for the beginning of the list.

    Raises:
        InvalidInput: for anything else.
    """
    cursor = context.query("cursor")
    if cursor and not _CURSOR.fullmatch(cursor):
        raise InvalidInput("cursor", "is none")
    return cursor or None


async def tasks(context: PageContext) -> Response:
    """The tasks for people, oldest first."""
    found = await context.services.tasks(context.me.caller, limit=MAX_TASKS + 1)
    shown = found[:TASKS_ON_PAGE]
    waiting = await context.services.route_changes.waiting(context.me.caller) if context.me.may(Right.ROUTE) else {}
    return context.page(
        "tasks.html",
        tasks=found,
        shown=shown,
        todo=TODO,
        may_settle=context.me.may(Right.SETTLE),
        sellers=await sellers(context, (*(task.shop_id for task in shown), *waiting)),
        route_changes=waiting.values(),
    )


async def sellers(context: PageContext, shop_ids: Iterable[int | None]) -> dict[int, str]:
    """The names of the shops that have one and that the person may see, in one query."""
    wanted = {shop_id for shop_id in shop_ids if shop_id is not None and context.me.caller.may_touch(shop_id)}
    names = await names_of_shops(context.services.database, wanted) if wanted else {}
    return {shop_id: name for shop_id, name in names.items() if name}
