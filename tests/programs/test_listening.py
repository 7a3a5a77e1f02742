"""Where ``serve`` listens."""

import socket

import pytest

from payment_service.programs import StartError
from payment_service.programs.serve import _listener
from payment_service.settings import Settings

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


def listening(settings: Settings, host: str) -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return _listener(settings.model_copy(update={"host": host, "port": port}))


def answers(listener: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, listener.getsockname()[1]), timeout=2).close()
    except OSError:
        return False
    return True


@needs_ipv6
def test_two_colons_listen_on_both_families(settings: Settings) -> None:
    with listening(settings, "::") as listener:
        assert [answers(listener, host) for host in ("127.0.0.1", "::1")] == [True, True]


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", [True, False]),
        ("127.0.0.1", [True, False]),
        ("localhost", [True, False]),
        pytest.param("::1", [False, True], marks=needs_ipv6),
    ],
)
def test_other_hosts_listen_on_their_own_family(host: str, reached: list[bool], settings: Settings) -> None:
    with listening(settings, host) as listener:
        assert [answers(listener, address) for address in ("127.0.0.1", "::1")] == reached


def test_host_that_is_not_here_is_told(settings: Settings) -> None:
    with pytest.raises(StartError, match="cannot listen on"):
        listening(settings, "host.invalid")
