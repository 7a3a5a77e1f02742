"""Runs the stand-in as a process: its socket, its uvicorn, its logs."""

import contextlib
import logging
import socket

import uvicorn

from kaspi_sandbox.app import create_app
from kaspi_sandbox.config import SandboxConfig
from kaspi_sandbox.faults import SandboxProtocol

log = logging.getLogger(__name__)


def build_server(config: SandboxConfig) -> uvicorn.Server:
    """Make the server without starting it; query strings hold secrets, so there is no access log."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            host=config.host,
            port=config.port,
            http=SandboxProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level=logging.WARNING,
            backlog=2048,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )


def run(config: SandboxConfig) -> None:
    """Serve until SIGINT or SIGTERM. A port in use raises `SystemExit` with a sentence that says what to do."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s sandbox %(message)s", datefmt="%H:%M:%S")
    server = build_server(config)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        raise SystemExit(
            f"The stand-in proxy cannot listen on {config.host}:{config.port} ({error.strerror}): "
            "stop the program that does, or choose another port."
        ) from error
    log.info("stand-in proxy on http://%s:%d", config.host, config.port)
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
