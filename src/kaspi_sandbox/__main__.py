"""`python -m kaspi_sandbox`: the stand-in from the command line."""

import argparse
import os
import sys
from pathlib import Path

from kaspi_sandbox import rules
from kaspi_sandbox.config import MARKETPLACE_BIN, SandboxConfig
from kaspi_sandbox.server import run


def main() -> None:
    """Parse, then serve."""
    parser = argparse.ArgumentParser(
        prog="python -m kaspi_sandbox",
        description="A stand-in for the production proxy. It moves no money and listens on this machine only.",
        epilog="The access token is read from KASPI_ACCESS_TOKEN.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument("--port", type=int, default=8016, help="port (%(default)s)")
    parser.add_argument("--tokens-file", type=Path, help='JSON {"<bin>": ["token", ...]}, read again when it changes')
    parser.add_argument("--ledger-file", type=Path, help="JSON lines that keep the ledger over restarts")
    parser.add_argument("--pay-after", type=float, default=6, help="seconds until the customer pays (%(default)s)")
    parser.add_argument("--deadline", type=float, default=8, help="the caller's total deadline, s (%(default)s)")
    parser.add_argument("--default-merchant", default=MARKETPLACE_BIN, help="BIN of calls without one (%(default)s)")
    parser.add_argument("--rules", action="store_true", help="print the table of courses and stop")
    options = parser.parse_args()
    if options.rules:
        sys.stdout.write(rules.markdown_table())
        return
    try:
        config = SandboxConfig(
            access_token=os.environ.get("KASPI_ACCESS_TOKEN", ""),
            tokens_file=options.tokens_file,
            ledger_file=options.ledger_file,
            host=options.host,
            port=options.port,
            pay_after_s=options.pay_after,
            deadline_s=options.deadline,
            default_merchant=options.default_merchant,
        )
    except ValueError as error:
        parser.error(str(error))
    run(config)


if __name__ == "__main__":
    main()
