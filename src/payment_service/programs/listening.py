"""The socket on which a program listens."""

import socket

from payment_service.programs import StartError


def listener(host: str, port: int, *, setting: str) -> socket.socket:
    """A socket that listens. ``setting`` is the name of the setting with the port.

    Raises:
        StartError: when the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise StartError(
            f"The service cannot listen on {host}:{port} ({error.strerror}): "
            f"stop the program that does, or set another {setting} or HOST."
        ) from error
