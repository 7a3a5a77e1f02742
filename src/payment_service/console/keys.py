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
from payment_service.console.web import HOME, Refused, Visit, number_in_path, redirect, require_proof, uncached_page
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


async def keys(visit: Visit) -> Response:
    """Every key, valid ones first."""
    rows = [KeyView.of(row) for row in await visit.services.access.all()]
    rows.sort(key=lambda row: (row.revoked_at is not None, row.name))
    return visit.page(
        "keys.html",
        keys=rows,
        last_used=await visit.services.access.last_used(),
        sellers=await sellers(visit, (shop for row in rows if row.shops != "all" for shop in row.shops)),
        notice=visit.query("done"),
    )


async def new(visit: Visit) -> Response:
    """The form for a key, and its submission, which shows the key once."""
    if not visit.is_sent:
        return await _form(visit)
    once = form_id(visit)
    try:
        scopes, shops, expires_at = _scopes(visit), await chosen_shops(visit), _expiry(visit)
        await require_proof(visit)
        name = visit.form_value("name")
        made = await visit.services.access.create(name, scopes, shops=shops, expires_at=expires_at, once=once)
    except ServiceError as error:
        if field_of(error) == "once":
            return redirect(f"{HOME}/keys", done="made-before")
        return await _form(visit, InvalidInput("key_name", "is none") if field_of(error) == "name" else error)
    return uncached_page(visit, "key_made.html", key=KeyView.of(made.row), whole=made.key)


async def _form(visit: Visit, error: ServiceError | None = None) -> Response:
    return visit.form_page(
        "key_new.html",
        error,
        once=visit.form_value("once") or str(uuid4()),
        scopes=SCOPES,
        shops=await names_of_shops(visit.services.database),
        chosen=_scopes(visit),
        chosen_shops=shop_numbers(visit),
        given=visit.form,
    )


def _scopes(visit: Visit) -> list[str]:
    """The chosen scopes: each has a field of its own."""
    return [scope for scope in SCOPES if f"scope-{scope}" in visit.form]


def _expiry(visit: Visit) -> datetime | None:
    days = visit.form_value("days")
    if not days:
        return None
    if not (days.isascii() and days.isdigit() and 1 <= int(days[:6]) <= _MOST_DAYS):
        raise InvalidInput("days", "is a number of days")
    return datetime.now(UTC) + timedelta(days=int(days))


async def revoke(visit: Visit) -> Response:
    """Confirm, with the password, that a key is revoked; and revoke it."""
    key_id = number_in_path(visit)
    row = next((row for row in await visit.services.access.all() if row.id == key_id), None)
    if row is None:
        raise Refused(404)
    if not visit.is_sent:
        return visit.form_page("key_revoke.html", key=KeyView.of(row))
    try:
        await require_proof(visit)
        await visit.services.access.revoke(key_id)
    except ServiceError as error:
        return visit.form_page("key_revoke.html", error, key=KeyView.of(row))
    return redirect(f"{HOME}/keys", done="revoked")
