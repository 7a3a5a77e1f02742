"""The settings of the proxy."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KaspiSettings:
    """How to reach the proxy. Times in seconds."""

    url: str
    access_token: str = field(repr=False)
    hint_secret: str | None = field(default=None, repr=False)
    """What the proxy's owner signs hints with; none when there are none."""
    deadline_s: float = 8
    connect_timeout_s: float = 3
    max_calls: int = 100
    max_readings: int = 20
    connections_ahead: int = 4
    """How many connections are opened ahead of the money calls, each for 3 s: enough for 80 payments a second where
    connecting takes 50 ms. Only while there are calls; 0: none."""
    breaker_failures: int = 10
    """How many failed calls in a row open the circuit; 0: never."""
    breaker_pause_s: float = 10
