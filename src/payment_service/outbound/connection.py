"""One connection, plain or over TLS: opening it, checking it before a request is written, every byte in and out.

It is a socket and not one of asyncio's streams, which read ahead of their reader, cannot be checked just before a
write, and resume no TLS session. Times are in seconds.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import httpx

from payment_service.outbound.addresses import IPAddress
from payment_service.outbound.lookups import LookUps

_MAX_REPLY_BYTES: Final = 128 * 1024
_RECEIVE_BYTES: Final = 16 * 1024


class Connection:
    """An open connection. Its owner closes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = 0

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session, which a later handshake may resume. Under TLS 1.3 it comes with the first reply."""
        return self._tls.session if self._tls else None

    @property
    def certificate_end(self) -> float | None:
        """When the host's certificate ends, in Unix seconds; none without TLS."""
        certificate = self._tls.getpeercert() if self._tls else None
        return ssl.cert_time_to_seconds(str(certificate["notAfter"])) if certificate else None

    async def start_tls(self, tls: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None) -> None:
        """Make the handshake.

        Raises:
            OSError: when it fails, or the certificate is not trusted.
        """
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname, session=session)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._fetch()
            else:
                return await self._flush()

    def is_quiet(self) -> bool:
        """Whether the server has neither ended the connection nor sent anything but TLS session tickets."""
        try:
            while True:
                if self._tls:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        self._tls.read(1)
                        return False
                data = self._sock.recv(_RECEIVE_BYTES)
                if not data or not self._tls:
                    return False
                self._take(data)
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def send(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            httpx.WriteError: when that fails. Any part of it may have left.
        """
        self._received = 0
        try:
            if self._tls:
                self._tls.write(data)
                await self._flush()
            else:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except OSError as error:
            raise httpx.WriteError("The connection broke while the request was written.") from error

    async def receive(self) -> bytes:
        """What comes next; nothing at the connection's end.

        Raises:
            httpx.ReadError: when the connection breaks, or more came since ``send`` than any reply has.
        """
        try:
            while self._tls:
                with contextlib.suppress(ssl.SSLWantReadError):
                    return self._tls.read(_RECEIVE_BYTES)
                await self._fetch()
            return await self._fetch()
        except ssl.SSLEOFError:  # many servers end without the alert that TLS has for it
            return b""
        except OSError as error:
            raise httpx.ReadError("The connection broke before the reply was whole.") from error

    def close(self) -> None:
        """Close it, whatever state it is in."""
        self._sock.close()

    async def _fetch(self) -> bytes:
        await self._flush()
        data = await asyncio.get_running_loop().sock_recv(self._sock, _RECEIVE_BYTES)
        self._take(data)
        return data

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > _MAX_REPLY_BYTES:
            raise ConnectionAbortedError("No reply is so long.")
        if self._tls and data:
            self._incoming.write(data)
        elif self._tls:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())


async def open_connection(
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    *,
    where: IPAddress | LookUps,
    session: ssl.SSLSession | None = None,
    timeout_s: float | None,
) -> Connection:
    """Open a connection, on which nothing has been sent yet.

    Args:
        host: The host to connect to; the certificate must be its own.
        port: Where it listens.
        tls: The trusted authorities; none for a connection without TLS.
        where: The address of the host that is connected to, and no other; or the look-ups of its name.
        session: Of an earlier connection to the same host: it may be resumed.
        timeout_s: For all of it, in seconds.

    Raises:
        httpx.ConnectTimeout: when that takes too long.
        httpx.ConnectError: when it fails for another reason.
    """
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await where(host) if isinstance(where, LookUps) else [where]
            sock = await open_socket(addresses, port, timeout_s)
            return await _ready(Connection(sock), tls, host, session)
    except TimeoutError:
        raise httpx.ConnectTimeout("No connection was made in time.") from None
    except OSError as error:
        raise httpx.ConnectError("No connection was made.") from error


async def _ready(
    connection: Connection, tls: ssl.SSLContext | None, host: str, session: ssl.SSLSession | None
) -> Connection:
    """A connection that was just made, with TLS where that is wanted; closed when it cannot be used."""
    try:
        if tls:
            await connection.start_tls(tls, host, session)
        if not connection.is_quiet():
            raise ConnectionAbortedError("The server spoke first, or ended the connection.")
    except BaseException:
        connection.close()
        raise
    return connection


async def open_socket(addresses: Sequence[IPAddress], port: int, timeout_s: float | None) -> socket.socket:
    """Connect to the first address that answers. A dead one leaves time for the others.

    Raises:
        OSError: when none does.
    """
    *others, last = addresses
    for other in others:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(timeout_s and timeout_s / (len(others) + 1)):
                return await _connect(other, port)
    return await _connect(last, port)


async def _connect(address: IPAddress, port: int) -> socket.socket:
    """Connect, without the loop's own ``sock_connect``: uvloop looks the address up in one of its few threads.

    While a silent name server holds them, no connection to a known address would be made.
    """
    loop, is_decided = asyncio.get_running_loop(), asyncio.Event()
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (error := sock.connect_ex((str(address), port))) == errno.EINPROGRESS:
            loop.add_writer(sock, is_decided.set)
            try:
                await is_decided.wait()
            finally:
                loop.remove_writer(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock
