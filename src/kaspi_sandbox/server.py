"""Runs a stand-in as a process: its socket, its uvicorn, its logs."""

import contextlib
import logging
import socket

import uvicorn
from starlette.types import ASGIApp

from kaspi_sandbox.app import create_app
from kaspi_sandbox.config import SandboxConfig
from kaspi_sandbox.faults import SandboxProtocol

log = logging.getLogger(__name__)


def build_server(app: ASGIApp, host: str, port: int) -> uvicorn.Server:
    """Make the server without starting it; addresses hold secrets, so there is no access log."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
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
    return uvicorn.Server(config)


def serve(app: ASGIApp, what: str, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. A port in use raises `SystemExit` with a sentence that says what to do."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s sandbox %(message)s", datefmt="%H:%M:%S")
    server = build_server(app, host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SystemExit(
            f"The stand-in {what} cannot listen on {host}:{port} ({error.strerror}): "
            "stop the program that does, or choose another port."
        ) from error
    log.info("stand-in %s on http://%s:%d", what, host, port)
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def run(config: SandboxConfig) -> None:
    """Serve the stand-in proxy, as ``serve`` does."""
    serve(create_app(config), "proxy", config.host, config.port)
