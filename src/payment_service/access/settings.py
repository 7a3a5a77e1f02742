"""What is set from outside about how people sign in."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """The provider, and what this service is to it."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
