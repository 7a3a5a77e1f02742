"""A receiver of webhooks as a process: verifies as anybody would, writes down what it took, fails when it is told to.

``python -m tests.support.receiver PORT FOLDER FAILS``: ``FOLDER/secrets.json`` holds the secret of each path,
``FOLDER/taken.jsonl`` what was taken, written before it is answered; of its calls it fails the share ``FAILS``.
"""

import json
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

TAKEN = "taken.jsonl"
SECRETS = "secrets.json"


def taken(folder: Path) -> list[dict[str, Any]]:
    """What a receiver took, oldest first. A line that a kill cut short was not answered, so it does not count."""
    file = folder / TAKEN
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def keep_secret(folder: Path, path: str, secret: str) -> None:
    """Let a receiver know the secret of a path."""
    file = folder / SECRETS
    secrets = json.loads(file.read_text()) if file.exists() else {}
    draft = folder / "secrets.new"
    draft.write_text(json.dumps({**secrets, path: secret}))
    draft.rename(file)


class Handler(BaseHTTPRequestHandler):
    """One call."""

    folder: Path
    fails: float

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        secret = json.loads((self.folder / SECRETS).read_text())[self.path]
        try:
            event = Webhook(secret).verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            self._write({"path": self.path, "refused": str(error)})
            self._answer(400)
            return
        if random.random() < self.fails:
            self._answer(500)
            return
        self._write({"path": self.path, "webhook_id": self.headers["webhook-id"], **event})
        self._answer(204)

    def _write(self, line: dict[str, Any]) -> None:
        with (self.folder / TAKEN).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    port, folder, fails = sys.argv[1:]
    Handler.folder, Handler.fails = Path(folder), float(fails)
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
