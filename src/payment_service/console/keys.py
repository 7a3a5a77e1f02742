"""API keys: the list with rights and last use, making and revoking a key.

A key is shown only by the answer that made it. The form carries an id that was made here: sent again, it makes no
second key and shows none.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from starlette.responses import Response

from payment_service.access.service import Scope
from payment_service.access.views import KeyView
from payment_service.console.form_fields import chosen_shops, form_id, shop_numbers
from payment_service.console.lists import sellers
from payment_service.console.problems import field_of
from payment_service.console.web import (
    HOME,
    PageContext,
    Refused,
    number_in_path,
    redirect,
    require_proof,
    uncached_page,
)
from payment_service.errors import InvalidInput, ServiceError
from payment_service.languages import mark
from payment_service.reconciliation.turnover import names_of_shops

SCOPES: Final[Mapping[Scope, str]] = {
    Scope.CONFIG_READ: mark("read which BIN a shop has"),
    Scope.PAYMENTS_READ: mark("look at payments"),
    Scope.PAYMENTS_WRITE: mark("ask for payments"),
    Scope.REFUNDS_WRITE: mark("send money back"),
    Scope.REPORTS_WRITE: mark("report what a client did itself"),
    Scope.ADMIN: mark("change routing, webhooks and chats, settle, read the record"),
    Scope.SECRETS_READ: mark("read device tokens in the clear"),
}
_MOST_DAYS: Final = 3650


async def keys(context: PageContext) -> Response:
    """Every key, valid ones first."""
    rows = [KeyView.of(row) for row in await context.services.access.all()]
    rows.sort(key=lambda row: (row.revoked_at is not None, row.name))
    return context.page(
        "keys.html",
        keys=rows,
        last_used=await context.services.access.last_used(),
        sellers=await sellers(context, (shop for row in rows if row.shops != "all" for shop in row.shops)),
        notice=context.query("done"),
    )


async def new(context: PageContext) -> Response:
    """The form for a key, and its submission, which shows the key once."""
    if not context.is_sent:
        return await _form(context)
    once = form_id(context)
    try:
        scopes, shops, expires_at = _scopes(context), await chosen_shops(context), _expiry(context)
        await require_proof(context)
        name = context.form_value("name")
        made = await context.services.access.create(name, scopes, shops=shops, expires_at=expires_at, once=once)
    except ServiceError as error:
        if field_of(error) == "once":
            return redirect(f"{HOME}/keys", done="made-before")
        return await _form(context, InvalidInput("key_name", "is none") if field_of(error) == "name" else error)
    return uncached_page(context, "key_made.html", key=KeyView.of(made.row), whole=made.key)


async def _form(context: PageContext, error: ServiceError | None = None) -> Response:
    return context.form_page(
        "key_new.html",
        error,
        once=context.form_value("once") or str(uuid4()),
        scopes=SCOPES,
        shops=await names_of_shops(context.services.database),
        chosen=_scopes(context),
        chosen_shops=shop_numbers(context),
        given=context.form,
    )


def _scopes(context: PageContext) -> list[str]:
    """The chosen scopes: each has a field of its own."""
    return [scope for scope in SCOPES if f"scope-{scope}" in context.form]


def _expiry(context: PageContext) -> datetime | None:
    days = context.form_value("days")
    if not days:
        return None
    if not (days.isascii() and days.isdigit() and 1 <= int(days[:6]) <= _MOST_DAYS):
        raise InvalidInput("days", "is a number of days")
    return datetime.now(UTC) + timedelta(days=int(days))


async def revoke(context: PageContext) -> Response:
    """Confirm, with the password, that a key is revoked; and revoke it."""
    key_id = number_in_path(context)
    row = next((row for row in await context.services.access.all() if row.id == key_id), None)
    if row is None:
        raise Refused(404)
    if not context.is_sent:
        return context.form_page("key_revoke.html", key=KeyView.of(row))
    try:
        await require_proof(context)
        await context.services.access.revoke(key_id)
    except ServiceError as error:
        return context.form_page("key_revoke.html", error, key=KeyView.of(row))
    return redirect(f"{HOME}/keys", done="revoked")
