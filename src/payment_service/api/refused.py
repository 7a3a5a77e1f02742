"""Alarms about callers that are refused where payments or routing are requested.

Some callers pay by themselves when they are refused, without a BIN: then the money goes to the wrong seller. So an
alarm names the refused caller by address and key, which no metric has as labels, and is repeated while it goes on.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from payment_service.observability import metrics
from payment_service.observability.logs import get_logger

AGAIN_AFTER_S: Final = 300.0
"""How long no further alarm is raised about the same caller."""
_MAX_CALLERS: Final = 1_000
_REFUSED: Final = frozenset({401, 403, 404})
_ROUTES: Final = frozenset(
    {"/payments/kaspi/create", "/payments/kaspi/create-link", "/payments/kaspi/refund", "/api/payment/config"}
)
log = get_logger(__name__)


@dataclass(slots=True)
class _Caller:
    """What was refused to one caller since the last alarm."""

    alarmed_at: float
    times: int = 0


class RefusedCallers:
    """Those whom this process refused, the one refused last at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: OrderedDict[tuple[str, str], _Caller] = OrderedDict()

    def observe(self, address: str, actor: str, route: str, status: int | None) -> None:
        """Count the answer to a request. ``actor`` is the name of its key, ``route`` the pattern of its path."""
        if status not in _REFUSED or route not in _ROUTES:
            return
        now = self._clock()
        caller = self._callers.setdefault((address, actor), _Caller(now - AGAIN_AFTER_S))
        self._callers.move_to_end((address, actor))
        if len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
        caller.times += 1
        if now - caller.alarmed_at >= AGAIN_AFTER_S:
            metrics.alarm(
                log, "refused_callers", address=address, actor=actor, route=route, status=status, times=caller.times
            )
            caller.alarmed_at, caller.times = now, 0
