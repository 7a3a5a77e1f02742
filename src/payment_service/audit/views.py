"""The public view of the record, in whole and as the history of one payment. Amounts in tiyn."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from payment_service.audit.models import AuditEntry
from payment_service.spreadsheets import ENCODING, cell


class HistoryLine(BaseModel):
    """One line of the record."""

    model_config = ConfigDict(from_attributes=True)

    operation_type: str
    state: str | None
    status: str | None
    error_message: str | None
    actor: str
    source: str
    reason: str | None
    refund_id: UUID | None
    request_id: str | None
    created_at: datetime


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
    state: str | None = Field(description="The state after this entry.")
    error_message: str | None
    provider: str
    payment: UUID | None = Field(validation_alias="payment_id", description="Our id of the payment.")
    refund_id: UUID | None
    actor: str
    source: str = Field(description="`service` for operations of this service, `client` for reports of clients.")
    request_id: str | None
    reason: str | None = Field(description="The reason that a person gave; null for automatic entries.")
    report_id: str | None = Field(description="The client's own id of a report.")
    created_at: datetime
    subject: str | None = Field(
        description="What was changed, when it is not a payment: `payment_config:8`, `api_key:3`, `webhook_endpoint:…`."
    )
    content: str | None = Field(description="The values after the change, as JSON; for a secret its SHA-256.")


def as_csv(lines: Iterable[LogLine], *, with_head: bool = True) -> bytes:
    """Lines as CSV that a spreadsheet opens; without its head they go on where others ended."""
    out = io.StringIO()
    writer = csv.writer(out)
    if with_head:
        writer.writerow(LogLine.model_fields)
    for line in lines:
        writer.writerow([cell(value) for value in line.model_dump(mode="json").values()])
    return out.getvalue().encode(ENCODING if with_head else "utf-8")


def lines_of(entries: Iterable[AuditEntry]) -> list[LogLine]:
    """The view of each entry."""
    return [LogLine.model_validate(entry) for entry in entries]
