"""A person who settles what nobody knows the end of, by the merchant cabinet: here, by the stand-in's ledger."""

from collections import Counter
from typing import Any, Final

from faults.rig import Rig

REASON: Final = "Seen in the merchant cabinet"


async def settle_all(rig: Rig, reason: str = REASON) -> list[str]:
    """Settle every task as the ledger says; returns what could not be settled."""
    return await _settle([task for task in await _tasks(rig) if task["kind"] != "open_payment"], rig, reason)


async def settle_one(rig: Rig, payment_id: str, reason: str = REASON) -> list[str]:
    """Settle one payment as the ledger says."""
    return await _settle([task for task in await _tasks(rig) if task["payment"] == payment_id], rig, reason)


async def _tasks(rig: Rig) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {rig.key}"}
    answer = await rig.http.get(f"{rig.services[0].url}/admin/tasks", headers=headers)
    tasks: list[dict[str, Any]] = answer.raise_for_status().json()
    return tasks


async def _settle(tasks: list[dict[str, Any]], rig: Rig, reason: str) -> list[str]:
    headers = {"Authorization": f"Bearer {rig.key}"}
    url = f"{rig.services[0].url}/admin"
    wrong: list[str] = []
    for task in tasks:
        if task["refund_id"]:
            whose = (task["external_id"], round(task["amount"] * 100))
            was_made = _refunds(rig)[whose] - await _succeeded(rig, *whose) > 0
            where = f"{url}/refunds/{task['refund_id']}/settle"
            found = {"state": "succeeded" if was_made else "failed"}
        else:
            external_id = _made(rig, task["short_code"])
            where = f"{url}/payments/{task['payment']}/settle"
            found = {"state": "pending", "external_id": external_id} if external_id else {"state": "failed"}
        answer = await rig.http.post(where, json={**found, "reason": reason}, headers=headers)
        if answer.status_code != 200:
            wrong.append(f"settled_by_hand: {found} of {task} was told {answer.status_code} {answer.text}")
    return wrong


def _made(rig: Rig, short_code: str) -> str | None:
    """The provider's id of a payment that took effect."""
    for entry in rig.entries():
        if entry["applied"] and entry["op"] != "refund" and (entry["message"] or "").endswith(f"#{short_code}"):
            return str(entry["external_id"])
    return None


def _refunds(rig: Rig) -> Counter[tuple[str, int]]:
    """How often each refund took effect."""
    made = (entry for entry in rig.entries() if entry["applied"] and entry["op"] == "refund")
    return Counter((entry["external_id"], entry["amount"]) for entry in made)


async def _succeeded(rig: Rig, external_id: str, amount: int) -> int:
    """How many of them the database knows by now."""
    found = await rig.pool.fetchval(
        "SELECT count(*) FROM refund JOIN payment ON payment.id = payment_id"
        " WHERE external_id = $1 AND refund.amount = $2 AND refund.state = 'succeeded'",
        external_id,
        amount,
    )
    return int(found)
