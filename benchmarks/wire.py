"""One call to the provider: our transport beside httpx's own under the same client, and how calls were made before.

Last, one try of a webhook. The server is a process of its own and answers at once. ``cpu`` is what the caller's
process used for one call, with all that is done beside it; ``p50`` is how long the caller waited. Rounds take turns.
"""

import asyncio
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from statistics import median

import httpx
import structlog
import uvloop

from payment_service.money import Money
from payment_service.outbound.addresses import DEVELOPMENT, IPAddress
from payment_service.outbound.client import Outbound, Posted
from payment_service.outbound.transport import Transport
from payment_service.providers.interface import Accepted, Account, PhonePayment
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.kaspi.settings import KaspiSettings

ROUNDS, CALLS = 7, 150
PAUSE_S = 0.005
"""Payments come one by one. What is opened ahead is opened meanwhile."""
BODY = b'{"status": true, "data": {"externalId": 12800627774, "status": "Wait"}}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
PAYMENT = PhonePayment(Account("920317450731"), Money(10_000), "77010203040", "bench")
LIMITS = httpx.Limits(max_keepalive_connections=0)
Call = Callable[[], Awaitable[object]]


class Server(asyncio.Protocol):
    """Answers every request alike."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(REPLY)  # type: ignore[attr-defined]


async def serve(certificate: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Server, "127.0.0.1", 0, ssl=each) for each in (None, tls)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


def over(url: str, transport: httpx.AsyncBaseTransport) -> Call:
    """Create a payment over this transport."""
    kaspi = KaspiClient(KaspiSettings(url, "token"))
    kaspi._money.transport = transport  # noqa: SLF001
    return lambda: kaspi.create(PAYMENT)


def ours(url: str, tls: ssl.SSLContext, **more: int) -> Call:
    transport = Transport(httpx.URL(url), tls, **more)
    transport._leaves_idle_open = True  # noqa: SLF001 - it leaves every connection alone
    return over(url, transport)


def httpxs(url: str, tls: ssl.SSLContext, keep: int) -> Call:
    limits = httpx.Limits(max_keepalive_connections=keep)
    return over(url, httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits))


def before(url: str, tls: ssl.SSLContext) -> Call:
    """A GET of httpx's client, without what the provider's client does beside it."""
    http = httpx.AsyncClient(verify=tls, trust_env=False, limits=LIMITS)
    query = {"access_token": "token", "phone": "77010203040", "amount": "100.00", "message": "bench"}

    async def get() -> object:
        async with http.stream("GET", f"{url}/create/", params=query) as response:
            return [chunk async for chunk in response.aiter_raw()]

    return get


def webhook(url: str, tls: ssl.SSLContext) -> Call:
    """A try of a webhook, without what is written of it."""

    async def look_up(_host: str) -> list[IPAddress]:
        return [ip_address("127.0.0.1")]

    outbound = Outbound(DEVELOPMENT, resolve=look_up, tls=tls)
    return lambda: outbound.post(f"{url}/hook", body=b"", headers={"webhook-id": "bench"})


async def measure(calls: dict[str, Call]) -> None:
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    waited: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            used = 0.0
            for _ in range(CALLS):
                began, used_before = time.perf_counter(), time.process_time()
                outcome = await call()
                waited[name].append(1000 * (time.perf_counter() - began))
                await asyncio.sleep(PAUSE_S)
                used += time.process_time() - used_before
                if not isinstance(outcome, Accepted | Posted | list):
                    raise RuntimeError(f"{name}: {outcome}")  # noqa: TRY004 - it is a call that failed
            if number:
                cpu[name].append(1000 * used / CALLS)
    print(f"{'':<40}{'cpu ms':>10}{'p50 ms':>10}")
    for name in calls:
        print(f"{name:<40}{median(cpu[name]):10.2f}{median(waited[name]):10.2f}")


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with ExitStack() as stack:
        certificate = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "both.pem"
        request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        files = ["-keyout", f"{certificate}.key", "-out", str(certificate)]
        subprocess.run(["openssl", *request.split(), *files], check=True, capture_output=True)
        certificate.write_bytes(certificate.read_bytes() + Path(f"{certificate}.key").read_bytes())
        command = [sys.executable, __file__, str(certificate)]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        assert server.stdout
        ports = server.stdout.readline().split()
        plain, secure = f"http://127.0.0.1:{ports[0]}", f"https://localhost:{ports[1]}"
        tls = ssl.create_default_context(cafile=certificate)

        async def run() -> None:
            await measure(
                {
                    "GET of httpx's client, plain, fresh": before(plain, tls),
                    "httpx, plain, fresh": httpxs(plain, tls, keep=0),
                    "ours, plain, fresh": ours(plain, tls),
                    "ours, plain, opened ahead": ours(plain, tls, ahead=4),
                    "httpx, plain, kept": httpxs(plain, tls, keep=1),
                    "ours, plain, kept": ours(plain, tls, keep=1),
                    "httpx, TLS, fresh": httpxs(secure, tls, keep=0),
                    "ours, TLS, fresh": ours(secure, tls),
                    "ours, TLS, opened ahead": ours(secure, tls, ahead=4),
                    "httpx, TLS, kept": httpxs(secure, tls, keep=1),
                    "ours, TLS, kept": ours(secure, tls, keep=1),
                    "webhook, plain": webhook(plain, tls),
                    "webhook, TLS": webhook(secure, tls),
                }
            )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1])) if len(sys.argv) > 1 else None
    if len(sys.argv) == 1:
        main()
