"""Taking turns by hand: what a worker's loop does, without its waiting."""

from typing import Any

from payment_service.scheduling.due import DueWork


async def work_off(work: DueWork[Any]) -> int:
    """Perform what is due now, one turn after the other, and what becomes due thereby; returns how many turns."""
    performed = 0
    while turns := await work.claim(work.slots):
        for turn in turns:
            await work.perform(turn)
        performed += len(turns)
    return performed
