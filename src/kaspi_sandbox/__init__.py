"""A stand-in for the production proxy: a program of its own that speaks the proxy's contract and misbehaves on request.

It owns no money and reaches no network. It imports nothing from the other packages, so that it can be
wrong only about Kaspi, never in the same way as the service that it tests.
"""

from kaspi_sandbox.app import create_app
from kaspi_sandbox.config import SandboxConfig
from kaspi_sandbox.server import run

__all__ = ["SandboxConfig", "create_app", "run"]
