"""The control endpoints of the stand-in: the page, the ledger, the payments, the rules; for people here and for tests.

Nothing here is part of the proxy's contract. Only this machine may use it: a web page from elsewhere that a browser
here has open must neither read the ledger nor press "Pay".
"""

from collections.abc import Iterable
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from kaspi_sandbox import rules
from kaspi_sandbox.config import SandboxConfig, is_loopback
from kaspi_sandbox.ledger import Ledger, Press
from kaspi_sandbox.merchants import Merchants
from kaspi_sandbox.proxy import Proxy
from kaspi_sandbox.records import Entry

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: How many payments the page and `GET /_payments` show unless told otherwise.
_PAYMENTS_SHOWN = 200


class QueuedRule(BaseModel):
    """A course for the next calls of one operation, whatever their phone and amount."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["create", "create-link", "status", "refund"]
    course: str
    times: Annotated[int, Field(ge=1, le=100_000)] = 1


class LedgerFilter(BaseModel):
    """What `GET /_ledger` may be asked for; a name it does not know is an error, not an unfiltered list."""

    model_config = ConfigDict(extra="forbid")

    op: str | None = None
    external_id: str | None = None
    bin: str | None = None
    phone: str | None = None
    message: str | None = None
    applied: bool | None = None
    #: Only the newest so many.
    limit: Annotated[int | None, Field(ge=1)] = None

    def of(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries that match, oldest first."""
        asked = self.model_dump(exclude_none=True, exclude={"limit"})
        wanted = {"organization_bin" if name == "bin" else name: value for name, value in asked.items()}
        found = [entry for entry in entries if all(getattr(entry, name) == value for name, value in wanted.items())]
        return found if self.limit is None else found[-self.limit :]


def this_machine_only(request: Request) -> None:
    """Refuse (403) a request that was not made to a loopback name, or was made by a page from another machine."""
    # The Host check is what stops DNS rebinding; the Origin check stops plain cross-site posts.
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    if not is_loopback(host) or (origin is not None and not is_loopback(urlsplit(origin).hostname or "")):
        raise HTTPException(403, "Only pages and programs of this machine may do this.")


def console(config: SandboxConfig, ledger: Ledger, merchants: Merchants, proxy: Proxy) -> APIRouter:
    """Build the routes."""
    router = APIRouter(dependencies=[Depends(this_machine_only)])
    _add_views(router, ledger)
    _add_actions(router, ledger, proxy)

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/_about")
    async def about() -> dict[str, Any]:
        return {
            "stand_in": True,
            "pay_after_s": config.pay_after_s,
            "deadline_s": config.deadline_s,
            "default_merchant": config.default_merchant,
            "merchants": merchants.bins(),
        }

    return router


def _add_views(router: APIRouter, ledger: Ledger) -> None:
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    @router.get("/")
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _CONTENT_SECURITY_POLICY})

    @router.get("/_ledger")
    async def show_ledger(asked: Annotated[LedgerFilter, Query()]) -> JSONResponse:
        return JSONResponse([entry.shown() for entry in asked.of(ledger.entries())])

    @router.get("/_payments")
    async def show_payments(limit: Annotated[int, Query(ge=1)] = _PAYMENTS_SHOWN) -> JSONResponse:
        now = ledger.clock()
        return JSONResponse([payment.shown(now) for payment in ledger.payments(limit)])

    @router.get("/_courses")
    async def show_courses() -> list[dict[str, Any]]:
        return [
            {
                "course": course.name,
                "meaning": course.meaning,
                "applied": course.applies,
                "phone_ending": course.phone_ending,
                "tiyn": course.number,
            }
            for course in rules.COURSES
        ]


def _add_actions(router: APIRouter, ledger: Ledger, proxy: Proxy) -> None:
    @router.post("/_rules")
    async def queue_rule(rule: QueuedRule) -> dict[str, Any]:
        course = rules.BY_NAME.get(rule.course)
        if course is None:
            raise HTTPException(422, f"There is no course {rule.course!r}: see GET /_courses.")
        return {"op": rule.op, "course": course.name, "queued": proxy.queue(rule.op, course, rule.times)}

    @router.post("/_reset")
    async def reset() -> dict[str, str]:
        proxy.reset()
        ledger.reset()
        return {"status": "ok"}

    @router.post("/_payments/{external_id}/{button}")
    async def press(external_id: str, button: Press) -> JSONResponse:
        payment = ledger.press(external_id, button)
        if payment is None:
            raise HTTPException(409, "No payment with this id is pending.")
        return JSONResponse(payment.shown(ledger.clock()))
