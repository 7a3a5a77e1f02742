"""respx in place of our own transport: ``respx.mock(using="transport")``."""

from typing import Any, ClassVar

import httpx
from respx.mocks import AbstractRequestMocker


class TransportMocker(AbstractRequestMocker):
    """Answers calls of ``payment_service.outbound.transport``. No bytes leave, so nothing is told to the trace."""

    name = "transport"
    targets: ClassVar[list[str]] = ["payment_service.outbound.transport.Transport"]
    target_methods: ClassVar[list[str]] = ["handle_async_request"]

    @classmethod
    def to_httpx_request(cls, **kwargs: Any) -> httpx.Request:
        """The request with its target in the URL, where routes look for it."""
        request: httpx.Request = kwargs["request"]
        target = request.extensions.get("target", request.url.raw_path)
        return httpx.Request(request.method, request.url.copy_with(raw_path=target), headers=request.headers)

    @classmethod
    async def from_async_httpx_response(cls, httpx_response: httpx.Response, *_: Any, **__: Any) -> httpx.Response:
        """The answer as it is."""
        return httpx_response
