"""Puts one stand-in together: the only module of the package that knows all others."""

import time

from fastapi import FastAPI

from kaspi_sandbox.config import SandboxConfig
from kaspi_sandbox.console import console
from kaspi_sandbox.ledger import Ledger
from kaspi_sandbox.merchants import Merchants
from kaspi_sandbox.proxy import Proxy


def create_app(config: SandboxConfig) -> FastAPI:
    """Make the application with a state of its own.

    Courses that break the connection itself need the server of `run` beneath it; all others work over any
    ASGI transport.
    """
    ledger = Ledger(clock=time.time, pay_after_s=config.pay_after_s, seed=config.seed, file=config.ledger_file)
    merchants = Merchants(config.merchants, config.tokens_file)
    proxy = Proxy(config, ledger, merchants)
    app = FastAPI(title="Stand-in proxy", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(console(config, ledger, merchants, proxy))
    # Last, since it answers every path that is left, as a web server does.
    app.mount("", proxy)
    return app
