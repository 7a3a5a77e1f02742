"""Where programs listen."""

import socket

import pytest

from payment_service.programs import StartError
from payment_service.programs.listening import listener

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


def listening(host: str) -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return listener(host, port, setting="PORT")


def answers(opened: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, opened.getsockname()[1]), timeout=2).close()
    except OSError:
        return False
    return True


@needs_ipv6
def test_two_colons_listen_on_both_families() -> None:
    with listening("::") as opened:
        assert [answers(opened, host) for host in ("127.0.0.1", "::1")] == [True, True]


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", [True, False]),
        ("127.0.0.1", [True, False]),
        ("localhost", [True, False]),
        pytest.param("::1", [False, True], marks=needs_ipv6),
    ],
)
def test_other_hosts_listen_on_their_own_family(host: str, reached: list[bool]) -> None:
    with listening(host) as opened:
        assert [answers(opened, address) for address in ("127.0.0.1", "::1")] == reached


def test_host_that_is_not_here_is_told() -> None:
    with pytest.raises(StartError, match="another PORT or HOST"):
        listening("host.invalid")
