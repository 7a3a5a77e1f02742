"""The proxy's envelopes, in all the variants in which its replies come. Pure: bytes out, nothing sent.

`turn` counts the replies of one kind from 0 and picks the variant, so that the same calls in the same order always get
the same replies, and a client that runs a while has met them all.
"""

import json
from typing import Any

from kaspi_sandbox import rules
from kaspi_sandbox.records import Payment, Refund, kaspi_time


def external_id(value: str, turn: int) -> int | str:
    """An id as the proxy sends it: a number in one reply, text in the next."""
    return int(value) if turn % 2 == 0 else value


def amount_number(amount: int) -> int | float:
    """Tiyn as the JSON number of tenge that PHP prints; a float only here, at the edge, and exact to the tiyn."""
    return amount // 100 if amount % 100 == 0 else amount / 100


def created(payment: Payment, turn: int, *, link: str) -> dict[str, Any]:
    """`data` of a create or a create-link; `link` is the address where the payment can be paid."""
    given = external_id(payment.external_id, turn)
    if payment.op == "create-link":
        return {"paymentLink": link, "paymentId": given, "expireDate": kaspi_time(payment.expires)}
    status = {} if turn % 5 == 4 else {"status": payment.plan[0].status}
    return {"externalId": given, **status}


def read(payment: Payment, turn: int, *, now: float) -> dict[str, Any]:
    """`data` of a status."""
    return {"externalId": external_id(payment.external_id, turn), "status": payment.status(now)}


def refunded(refund: Refund, turn: int) -> dict[str, Any]:
    """`data` of a refund."""
    return {
        "externalId": external_id(refund.external_id, turn),
        "returnOperationId": refund.return_operation_id,
        "refundedAmount": amount_number(refund.amount),
    }


def success(data: dict[str, Any] | list[Any], turn: int) -> bytes:
    """The envelope of a success; older replies say `success`, and `http_code` may be missing."""
    http_code = {} if turn % 3 == 2 else {"http_code": 200}
    return _encoded({"success" if turn % 4 == 3 else "status": True, "data": data, **http_code})


def refusal(code: int, turn: int) -> bytes:
    """The envelope of Kaspi's refusal."""
    http_code = {} if turn % 3 == 2 else {"http_code": 200}
    data = {"errors": {str(code): rules.MESSAGES[code]}}
    return _encoded({"success" if turn % 4 == 3 else "status": False, "data": data, **http_code})


def error_text(text: str, turn: int) -> bytes:
    """The envelope of a failure without a code, with the lists that PHP makes of empty maps."""
    empty: dict[str, Any] = ({}, {"data": []}, {"data": {"errors": []}})[turn % 3]
    return _encoded({"status": False, "error": text, **empty})


def html(title: str) -> bytes:
    """A page as the web server before the proxy makes them."""
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def _encoded(envelope: dict[str, Any]) -> bytes:
    return json.dumps(envelope, separators=(",", ":")).encode()
