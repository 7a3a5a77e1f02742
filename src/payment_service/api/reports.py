"""Client reports and the audit log over HTTP."""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from payment_service.api import problems
from payment_service.api.dependencies import Admin, InServices, ReportsWriter
from payment_service.api.fields import Cursor, Moment, SentId, ShopId, Text, digits, or_else, whole
from payment_service.api.strict import MAX_ERRORS, StrictRoute, not_known, unknown_parameters
from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.audit.service import LogFilter
from payment_service.audit.views import LogLine, as_csv, lines_of
from payment_service.characters import checked_text, one_line
from payment_service.errors import ShopNotConfigured
from payment_service.identifiers import checked_bin
from payment_service.money import MAX_TIYN
from payment_service.observability.logs import get_logger, scrub
from payment_service.postgres.paging import Page
from payment_service.providers.registry import DEFAULT
from payment_service.reports.service import Report

router = APIRouter(route_class=StrictRoute)
_WHOLE = re.compile(r"[0-9]{1,10}")
log = get_logger(__name__)
_LINES: Final = TypeAdapter(list[LogLine])
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")


def _tiyn(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else whole(value)


def _in_words(value: Any) -> Any:
    """Any JSON value as text on one line: an error may come as a list, a status as a number."""
    if isinstance(value, str | Decimal):
        return one_line(str(value))
    try:
        return one_line(json.dumps(value, ensure_ascii=False, default=str))
    except RecursionError:
        return "nested too deeply to be kept"


def _cut(length: int) -> BeforeValidator:
    # An error message may quote an address with a token and a phone, and the audit log is never changed.
    return BeforeValidator(lambda value: scrub(_in_words(value))[:length])


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("is a text, such as create")  # noqa: TRY004 - pydantic's word for what is not valid
    return value


OperationType = Annotated[
    str,
    _cut(20),
    BeforeValidator(_text),  # runs first
    StringConstraints(min_length=1),
    WithJsonSchema(
        {"type": "string", "pattern": r"[^\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "examples": ["create"]}
    ),
]
StatusWord = Annotated[str, _cut(50), StringConstraints(min_length=1)]
Message = Annotated[
    str,
    _cut(500),
    Field(description="The first 500 characters are kept, without what looks like a phone or a secret in an address."),
]
Tiyn = Annotated[int, Field(ge=0, le=MAX_TIYN, strict=True), BeforeValidator(_tiyn)]
ReportedBin = Annotated[str, BeforeValidator(digits), AfterValidator(checked_text), StringConstraints(max_length=12)]
ReportId = Annotated[
    str,
    StringConstraints(pattern=r"^[!-~]{1,64}$"),
    Field(description="Your own id of this report. A report that is repeated under the same id is recorded once."),
]
_FORMS: Final = {
    "organization_bin": "12 digits",
    "external_id": "1 to 50 letters, digits, _ and -, as text or as a whole number below 2^53",
    "amount": "a whole number of tiyn from 0 to 9999999999",
    "status": "a word of up to 50 characters",
    "provider": "a word of up to 20 characters",
    "report_id": "1 to 64 visible ASCII characters",
}
"""The form of fields that are left out when they have another one."""
_WORDS: Final = frozenset({"operation_type", "status", "provider"})
"""Texts that are shortened with a warning. Of an error message the limit is documented instead."""


class ClientReport(BaseModel):
    """A client's report: kept in whatever form it comes, because it is not sent again.

    A field that cannot be kept as it was sent is shortened or left out, an unknown one is left out, and ``warnings``
    says so. Without the shop, or what was done, there is nothing to keep.
    """

    model_config = ConfigDict(extra="allow")
    _warnings: list[str] = PrivateAttr(default_factory=list)

    shop_id: ShopId

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        sent = {name: value for name, value in given.items() if value not in (None, "") or name not in cls.model_fields}
        try:
            report, wrong = handler(sent), set()
        except ValidationError as error:
            wrong = {str(one["loc"][0]) for one in error.errors()}
            if not wrong <= _FORMS.keys() & sent.keys():
                raise
            kept = {name: value for name, value in sent.items() if name not in wrong}
            report = handler(kept | {name: None for name in wrong if cls.model_fields[name].is_required()})
        report.warn_of_losses(sent, wrong)
        return report

    def warn_of_losses(self, sent: Mapping[str, Any], wrong: set[str]) -> None:
        """Note what of the report is not kept as it was sent. ``wrong`` names what was left out."""
        self._warnings = [*self._partly_kept(sent, wrong)]

    def _partly_kept(self, sent: Mapping[str, Any], wrong: set[str]) -> Iterator[str]:
        for name in (name for name in type(self).model_fields if name in sent):
            if name in wrong:
                yield f"{name}: {_in_words(sent[name])[:60]} was left out: it is {_FORMS[name]}"
            elif name in _WORDS and getattr(self, name) != sent[name]:
                yield f"{name}: kept as {getattr(self, name)}"
        organization_bin = getattr(self, "organization_bin", None)
        if organization_bin is not None:
            try:
                checked_bin(organization_bin)
            except ValueError as error:
                yield f"organization_bin: kept as {organization_bin}, but {error}"
        for name in islice(self.model_extra or (), MAX_ERRORS):
            yield f"{name[:60]}: {not_known(name, type(self).model_fields)}"

    def known(self) -> dict[str, Any]:
        """The fields that are kept."""
        return self.model_dump(include=set(type(self).model_fields))

    def warnings(self, request: Request) -> list[str]:
        """What of the report, and of the query that came with it, is not kept as it was sent."""
        parameters = [f"{name[:60]}: {why}" for name, why in unknown_parameters(request.query_params, ()).items()]
        found = (self._warnings + parameters)[:MAX_ERRORS]
        if found:
            log.warning("report kept in part", warnings=" | ".join(found))
        return found

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        document = handler.resolve_ref_schema(reference)
        fields = document["properties"]
        for name in fields.keys() - {"shop_id", "operation_type"}:
            anything: dict[str, Any] = {"description": "Shortened or left out, with a warning."}
            if name in document["required"]:
                fields[name]["anyOf"].remove({"type": "null"})
                anything["not"] = {"enum": [None, ""]}
            fields[name] = or_else(fields[name], anything)
        return reference


class OperationReport(ClientReport):
    """An operation that a client made itself."""

    organization_bin: ReportedBin | None = Field(default=None, description="As the client used it: 12 digits.")
    operation_type: OperationType
    external_id: SentId | None = None
    amount: Tiyn | None = Field(default=None, description="Whole tiyn, as a number or in digits.")
    status: StatusWord | None = None
    error_message: Message | None = None
    provider: Annotated[str, _cut(20), StringConstraints(min_length=1)] = DEFAULT
    report_id: ReportId | None = None


class StatusReport(ClientReport):
    """A status that a client saw."""

    external_id: SentId | None
    status: StatusWord | None
    error_message: Message | None = None
    report_id: ReportId | None = None


class ReportedLine(LogLine):
    """A report as it was recorded."""

    warnings: list[str] = Field(default=[], description="What of the report could not be kept as it was sent.")


@router.post(
    "/api/payment/log",
    tags=["reports"],
    summary="Report an operation",
    responses=problems.declared(ShopNotConfigured),
)
async def report(body: OperationReport, services: InServices, caller: ReportsWriter, request: Request) -> ReportedLine:
    """Records an operation that the client made itself. It is marked as reported.

    A payment that this service does not know yet is polled from now on. The report of a key that is limited to some
    shops is only recorded, because nothing proves that the payment is theirs. `warnings` lists what could not be stored
    as it was sent.
    """
    return _reported(await services.reports.write(caller, Report(**body.known())), body.warnings(request))


@router.patch(
    "/api/payment/status",
    tags=["reports"],
    summary="Report a status",
    responses=problems.declared(ShopNotConfigured),
)
async def report_status(
    body: StatusReport, services: InServices, caller: ReportsWriter, request: Request
) -> ReportedLine:
    """Records a status that the client saw. The provider is asked at once; only its answer changes the payment."""
    entry = await services.reports.write(caller, Report(**body.known(), operation_type="status"))
    if body.external_id is not None:
        await services.polling.hint(entry.provider, body.external_id, shop_id=body.shop_id)
    return _reported(entry, body.warnings(request))


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
                    "description": "Pass it to get the next page; absent on the last page.",
                    "schema": {"type": "string"},
                }
            },
        },
        **problems.declared(),
    },
)
async def logs(
    services: InServices,
    caller: Admin,
    shop_id: Annotated[ShopId | None, Query()] = None,
    operation_type: Annotated[Text | None, Query(max_length=20)] = None,
    external_id: Annotated[Text | None, Query(max_length=50)] = None,
    status: Annotated[Text | None, Query(max_length=50)] = None,
    provider: Annotated[Text | None, Query(max_length=20)] = None,
    subject: Annotated[
        Text | None, Query(max_length=60, description="What was changed, such as `payment_config:8` or `api_key:3`.")
    ] = None,
    request_id: Annotated[
        Text | None, Query(max_length=128, description="The `X-Request-ID` of a request: all its entries.")
    ] = None,
    changes: Annotated[
        bool, Query(description="Include changes of routing, keys, webhooks, chats and secrets.")
    ] = False,
    since: Annotated[Moment | None, Query(description="Written at this time or later (ISO 8601).")] = None,
    until: Annotated[Moment | None, Query(description="Written before this time (ISO 8601).")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    skip: Annotated[
        int, Query(ge=0, le=100_000, description="For the first pages. Use the cursor for deep paging.")
    ] = 0,
    cursor: Cursor = None,
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Lists the audit log, newest first; `Accept: text/csv` returns CSV. Amounts are tiyn.

    Only entries about payments and refunds are listed, unless `changes`, `subject` or `operation_type` is given.
    """
    wanted = LogFilter(
        shop_id=shop_id,
        operation_type=operation_type,
        external_id=external_id,
        status=status,
        provider=provider,
        subject=subject,
        request_id=request_id,
        since=since,
        until=until,
        shops=caller.shops,
    )
    async with services.database.reading() as session:
        page = await audit.search(
            session,
            wanted,
            changes=changes or subject is not None or operation_type is not None,
            limit=limit,
            cursor=cursor,
            skip=skip,
        )
    return _as_csv_or_json(page, accept or "")


def _as_csv_or_json(page: Page[AuditEntry], accept: str) -> Response:
    lines = lines_of(page.rows)
    headers = {"Vary": "Accept"}
    if page.next_cursor:
        headers["X-Next-Cursor"] = page.next_cursor
    if _prefers_csv(accept):
        headers["Content-Disposition"] = 'attachment; filename="payment-log.csv"'
        return Response(as_csv(lines), media_type="text/csv; charset=utf-8", headers=headers)
    return Response(_LINES.dump_json(lines), media_type="application/json", headers=headers)


def _reported(entry: AuditEntry, warnings: list[str]) -> ReportedLine:
    line = ReportedLine.model_validate(entry)
    line.warnings = warnings
    return line


def _prefers_csv(accept: str) -> bool:
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        weights[kind] = float(weight) if _WEIGHT.fullmatch(weight) else 0
    return weights.get("text/csv", 0) > 0 and weights["text/csv"] >= weights.get("application/json", 0)
