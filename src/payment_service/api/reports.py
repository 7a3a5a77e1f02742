"""The record over HTTP: what clients report of their own operations, and the audit log for operators."""

import csv
import io
import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from payment_service.access.service import Caller, Scope
from payment_service.api import problems
from payment_service.api.dependencies import InRooms, caller_who_may
from payment_service.api.exact import ExactRoute
from payment_service.api.fields import Moment, SentId, ShopId, Text, digits, whole
from payment_service.audit import service as audit
from payment_service.audit.service import LogFilter
from payment_service.errors import ShopNotConfigured
from payment_service.money import MAX_TIYN
from payment_service.payments.reports import Report
from payment_service.spreadsheets import ENCODING, cell

router = APIRouter(route_class=ExactRoute)
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")


def _one_line(value: Any) -> Any:
    """An error's text may hold lines and control characters: the report is worth more than they are."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split()) if isinstance(value, str) else value


OperationType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,19}$"), Field(examples=["create"])]
StatusWord = Annotated[Text, StringConstraints(min_length=1, max_length=50)]
Message = Annotated[str, BeforeValidator(_one_line), Field(description="The first 500 characters are kept.")]
Tiyn = Annotated[int, Field(ge=0, le=MAX_TIYN, strict=True), BeforeValidator(whole)]
_BIN_PATTERN = r"^[0-9]{12}$"
ReportedBin = Annotated[
    str,
    BeforeValidator(digits),
    StringConstraints(pattern=_BIN_PATTERN),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _BIN_PATTERN},
                {"type": "integer", "minimum": 10**11, "maximum": 10**12 - 1},
            ]
        }
    ),
]

ReportId = Annotated[
    str,
    StringConstraints(pattern=r"^[!-~]{1,64}$"),
    Field(description="Your own id of this report: sent again under it, it is taken once."),
]


class OperationReport(BaseModel):
    """An operation that a client made itself."""

    shop_id: ShopId
    organization_bin: ReportedBin | None = Field(default=None, description="As the client used it.")
    operation_type: OperationType
    external_id: SentId | None = None
    amount: Tiyn | None = Field(default=None, description="Tiyn.")
    status: StatusWord | None = None
    error_message: Message | None = None
    provider: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,20}$")] = "kaspi"
    report_id: ReportId | None = None


class StatusReport(BaseModel):
    """A status that a client saw."""

    shop_id: ShopId
    external_id: SentId
    status: StatusWord
    error_message: Message | None = None
    report_id: ReportId | None = None


class LogLine(BaseModel):
    """One line of the audit log."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    shop_id: int | None
    organization_bin: str | None
    operation_type: str
    external_id: str | None
    amount: int | None = Field(description="Tiyn.")
    status: str | None = Field(description="The provider's word.")
    state: str | None = Field(description="Ours, after the move that this line records.")
    error_message: str | None
    provider: str
    payment: UUID | None = Field(validation_alias="payment_id", description="Our id of the payment.")
    refund_id: UUID | None
    actor: str
    source: str = Field(description="`service` for what we did, `client` for what a client reported.")
    request_id: str | None
    reason: str | None = Field(description="Why a person did it; a machine has none.")
    report_id: str | None = Field(description="The client's own id of a report.")
    created_at: datetime


@router.post(
    "/api/payment/log",
    tags=["reports"],
    summary="Report an operation",
    responses=problems.declared(ShopNotConfigured),
)
async def report(
    body: OperationReport, house: InRooms, caller: Annotated[Caller, caller_who_may(Scope.REPORTS_WRITE)]
) -> LogLine:
    """Write down an operation that the client made itself. It is marked as reported, never mixed up with ours.

    A payment that this service does not know yet is followed from now on: the provider is asked about it at once.
    """
    return LogLine.model_validate(await house.reports.write(caller, Report(**body.model_dump())))


@router.patch(
    "/api/payment/status",
    tags=["reports"],
    summary="Report a status",
    responses=problems.declared(ShopNotConfigured),
)
async def report_status(
    body: StatusReport, house: InRooms, caller: Annotated[Caller, caller_who_may(Scope.REPORTS_WRITE)]
) -> LogLine:
    """Write down a status that the client saw. The payment is asked about at once, and the provider is believed."""
    entry = await house.reports.write(caller, Report(**body.model_dump(), operation_type="status"))
    await house.following.hint(body.external_id, shop_id=body.shop_id)
    return LogLine.model_validate(entry)


@router.get(
    "/admin/logs",
    tags=["admin"],
    summary="The audit log",
    response_model=list[LogLine],
    responses={
        200: {
            "content": {"text/csv": {"schema": {"type": "string"}}},
            "headers": {
                "X-Next-Cursor": {
                    "description": "Ask with it for the next page; absent on the last.",
                    "schema": {"type": "string"},
                }
            },
        },
        **problems.declared(),
    },
)
async def logs(
    house: InRooms,
    caller: Annotated[Caller, caller_who_may(Scope.ADMIN)],
    response: Response,
    shop_id: Annotated[ShopId | None, Query()] = None,
    operation_type: Annotated[Text | None, Query(max_length=20)] = None,
    external_id: Annotated[Text | None, Query(max_length=50)] = None,
    status: Annotated[Text | None, Query(max_length=50)] = None,
    provider: Annotated[Text | None, Query(max_length=20)] = None,
    since: Annotated[Moment | None, Query(description="Written at this time or later (ISO 8601).")] = None,
    until: Annotated[Moment | None, Query(description="Written before this time (ISO 8601).")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    skip: Annotated[int, Query(ge=0, le=100_000, description="For shallow paging; deep pages want the cursor.")] = 0,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    accept: Annotated[str | None, Header()] = None,
) -> Any:
    """The record, newest first; `Accept: text/csv` gives CSV. Amounts are tiyn."""
    wanted = LogFilter(
        shop_id=shop_id,
        operation_type=operation_type,
        external_id=external_id,
        status=status,
        provider=provider,
        since=since,
        until=until,
        shops=caller.shops,
    )
    async with house.database.reading() as session:
        page = await audit.search(session, wanted, limit=limit, cursor=cursor, skip=skip)
    lines = [LogLine.model_validate(entry) for entry in page.rows]
    headers = {"Vary": "Accept"}
    if page.next_cursor:
        headers["X-Next-Cursor"] = page.next_cursor
    if _prefers_csv(accept or ""):
        headers["Content-Disposition"] = 'attachment; filename="payment-log.csv"'
        return Response(_csv(lines), media_type="text/csv; charset=utf-8", headers=headers)
    response.headers.update(headers)
    return lines


def _prefers_csv(accept: str) -> bool:
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        weights[kind] = float(weight) if _WEIGHT.fullmatch(weight) else 0
    return weights.get("text/csv", 0) > 0 and weights["text/csv"] >= weights.get("application/json", 0)


def _csv(lines: list[LogLine]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(LogLine.model_fields)
    for line in lines:
        writer.writerow([cell(value) for value in line.model_dump(mode="json").values()])
    return out.getvalue().encode(ENCODING)
