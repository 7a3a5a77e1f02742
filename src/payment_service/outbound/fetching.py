"""One request to an address that the operator set or a server of theirs named, and the whole of a short reply.

No redirect is followed and nothing is sent again. An error names neither the address nor what was sent.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from payment_service.outbound.tls import trusted_authorities

DEADLINE_S: Final = 10.0
MAX_REPLY_BYTES: Final = 256 * 1024
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}
"""Nothing is decompressed: a few kB may become gigabytes."""


class FetchError(Exception):
    """There is no whole reply; the text says what kind of failure it was."""


async def fetch(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None
) -> tuple[int, bytes]:
    """Send one request; returns the status and the body.

    Raises:
        FetchError: when no whole reply of at most 256 kB comes within 10 s.
    """
    client = httpx.AsyncClient(verify=trusted_authorities(), trust_env=False, follow_redirects=False)
    try:
        async with (
            asyncio.timeout(DEADLINE_S),
            client,
            client.stream(method, url, headers={**(headers or {}), **_AS_IT_IS}, content=body) as response,
        ):
            reply = bytearray()
            async for chunk in response.aiter_raw():
                reply += chunk
                if len(reply) > MAX_REPLY_BYTES:
                    raise FetchError("the reply is too long")
            return response.status_code, bytes(reply)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise FetchError(type(error).__name__) from None
