"""API keys: who may call, what they may do, when they last did, and ending one."""

from starlette.responses import Response

from payment_service.access.views import KeyView
from payment_service.console.lists import sellers
from payment_service.console.said import told
from payment_service.console.web import HOME, Refused, Visit, go, number_of, proved
from payment_service.errors import NotAuthenticated, ServiceError


async def keys(visit: Visit) -> Response:
    """Every key, those that hold first."""
    rows = [KeyView.of(row) for row in await visit.services.access.all()]
    rows.sort(key=lambda row: (row.revoked_at is not None, row.name))
    return visit.page(
        "keys.html",
        keys=rows,
        last_used=await visit.services.access.last_used(),
        sellers=await sellers(visit, (shop for row in rows if row.shops != "all" for shop in row.shops)),
        notice=visit.query("done"),
    )


async def revoke(visit: Visit) -> Response:
    """Ask whether a key is to end, with the password; and end it."""
    key_id = number_of(visit.request.path_params["id"])
    row = next((row for row in await visit.services.access.all() if row.id == key_id), None)
    if row is None:
        raise Refused(404)
    error: ServiceError | None = None
    if visit.request.method == "POST":
        try:
            await proved(visit)
            await visit.services.access.revoke(key_id)
        except NotAuthenticated:
            raise
        except ServiceError as refusal:
            error = refusal
        else:
            return go(f"{HOME}/keys", done="revoked")
    return visit.page(
        "key_revoke.html",
        key=KeyView.of(row),
        **told(error, visit.language),
    )
