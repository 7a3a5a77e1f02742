"""Look-ups of host names, where no name delays another.

The system's resolver blocks a thread, and a thread cannot be stopped. So a name has at most one, however many callers
wait for it; a caller waits for a few seconds at most; and a name whose thread is stuck is not looked up again until the
thread has ended. The threads are daemons: none delays the end of the process.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from payment_service.outbound.addresses import IPAddress

WITHIN_S: Final = 5.0
AT_ONCE: Final = 100
"""More than the calls of endpoints at the same time (WEBHOOK_CALLS), so that names which are stuck leave room."""


def ask_system_resolver(host: str) -> list[IPAddress]:
    """Ask the system's resolver, in this thread.

    Raises:
        OSError: the name has no address, or no name server could be asked.
    """
    return [ip_address(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def ask_for_whole_name(host: str) -> list[IPAddress]:
    """Ask it for a name that a user gave: the dot says that no search list of this machine is tried around it.

    Raises:
        OSError: as ``ask_system_resolver``.
    """
    return ask_system_resolver(f"{host}." if "." in host else host)


@dataclass(frozen=True, slots=True)
class _LookUp:
    """One name being looked up."""

    answer: asyncio.Future[list[IPAddress]]
    until: float
    """By the loop's clock: for how long anybody waits for it."""


class LookUps:
    """Looks names up, each in a thread of its own."""

    def __init__(
        self,
        ask: Callable[[str], list[IPAddress]] = ask_for_whole_name,
        *,
        within_s: float = WITHIN_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self._ask = ask
        self._within_s = within_s
        self._at_once = at_once
        self._under_way: dict[str, _LookUp] = {}

    async def __call__(self, host: str) -> list[IPAddress]:
        """All addresses of a host name.

        Raises:
            TimeoutError: they did not come in time; or an earlier look-up of the name is still stuck.
            OSError: the name has none, or too many names are being looked up.
        """
        look_up = self._under_way.get(host) or self._begin(host)
        async with asyncio.timeout_at(look_up.until):
            # A caller that gives up does not cancel it for the others.
            return await asyncio.shield(look_up.answer)

    def _begin(self, host: str) -> _LookUp:
        if len(self._under_way) >= self._at_once:
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        look_up = _LookUp(loop.create_future(), loop.time() + self._within_s)
        look_up.answer.add_done_callback(lambda answer: answer.exception())  # read, also when everybody has left
        self._under_way[host] = look_up

        def run() -> None:
            found: list[IPAddress] | Exception
            try:
                found = self._ask(host)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                found = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, host, found)

        threading.Thread(target=run, name=f"lookup-{host[:40]}", daemon=True).start()
        return look_up

    def _ended(self, host: str, found: list[IPAddress] | Exception) -> None:
        answer = self._under_way.pop(host).answer
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
