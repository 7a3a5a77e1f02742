"""The settings of signing in."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """The OpenID provider, and this service as its client."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
