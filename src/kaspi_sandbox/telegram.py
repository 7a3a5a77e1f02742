"""A stand-in for Telegram's Bot API: a process that keeps what was sent and misbehaves on request.

``python -m kaspi_sandbox.telegram --port 8017`` answers ``/bot<token>/sendMessage`` and ``/getMe``; the token
is TELEGRAM_BOT_TOKEN. ``POST /_rules {"course", "chat_id"?, "times"?, "value"?}`` lets the next messages (to that chat)
go wrong, ``GET /_messages`` shows what was taken, ``GET /_calls`` every call with its answer, ``POST /_reset`` forgets.
"""

import argparse
import itertools
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kaspi_sandbox.console import this_machine_only
from kaspi_sandbox.faults import Drop
from kaspi_sandbox.server import serve

_TOKEN: Final = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_TAGS: Final = frozenset({"a", "b", "code", "i", "pre", "s", "u"})
_LONGEST_TEXT: Final = 4096


def _answer(status: int, description: str, **parameters: int) -> JSONResponse:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    return JSONResponse(body | ({"parameters": parameters} if parameters else {}), status)


class _Lost(Response):
    """The connection is reset in place of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Drop(reset=True)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Course:
    """One way for a message to go wrong."""

    answer: Callable[[int], Response]
    taken: bool = False


COURSES: Final = {
    "too_many": _Course(
        lambda value: _answer(429, f"Too Many Requests: retry after {value}", retry_after=value),
    ),
    "blocked": _Course(lambda _: _answer(403, "Forbidden: bot was blocked by the user")),
    "not_found": _Course(lambda _: _answer(400, "Bad Request: chat not found")),
    "moved": _Course(
        lambda value: _answer(
            400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=value
        ),
    ),
    "bad_text": _Course(lambda _: _answer(400, "Bad Request: can't parse entities: unsupported start tag")),
    "failing": _Course(lambda _: _answer(502, "Bad Gateway")),
    "dropped": _Course(lambda _: _Lost()),
    "lost": _Course(lambda _: _Lost(), taken=True),
}
"""Names of courses. ``lost`` takes the message and never says so."""


class Message(BaseModel):
    """What ``sendMessage`` is asked for."""

    chat_id: int | str
    text: str
    parse_mode: str | None = None


class Rule(BaseModel):
    """A course for the next messages, to one chat or to any."""

    model_config = ConfigDict(extra="forbid")

    course: str
    chat_id: str | None = None
    times: Annotated[int, Field(ge=1)] = 1
    value: int = 1
    """Seconds of ``too_many``, the new chat of ``moved``."""


class _Tags(HTMLParser):
    """Whether a text is the HTML that Telegram takes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.is_good = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        self.open.append(tag)
        self.is_good = self.is_good and tag in _TAGS

    def handle_endtag(self, tag: str) -> None:
        self.is_good = self.is_good and bool(self.open) and self.open.pop() == tag


def _is_telegrams_html(text: str) -> bool:
    tags = _Tags()
    tags.feed(text)
    tags.close()
    return tags.is_good and not tags.open


@dataclass
class BotApi:
    """What one stand-in knows."""

    token: str = field(repr=False)
    messages: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def send(self, message: Message) -> Response:
        """Take a message, or what its course says."""
        course = self._course_of(str(message.chat_id))
        call = {"at": time.time(), "chat_id": str(message.chat_id), "course": course and course.course}
        self.calls.append(call)
        if len(message.text) > _LONGEST_TEXT:
            return _answer(400, "Bad Request: message is too long")
        if message.parse_mode == "HTML" and not _is_telegrams_html(message.text):
            return _answer(400, "Bad Request: can't parse entities")
        taken = {"message_id": next(self._ids), "chat_id": str(message.chat_id), "text": message.text, "at": call["at"]}
        if course is None or COURSES[course.course].taken:
            self.messages.append(taken)
        if course is not None:
            return COURSES[course.course].answer(course.value)
        return JSONResponse({"ok": True, "result": {"message_id": taken["message_id"], "text": message.text}})

    def _course_of(self, chat_id: str) -> Rule | None:
        for rule in self.rules:
            if rule.chat_id in {None, chat_id}:
                rule.times -= 1
                if not rule.times:
                    self.rules.remove(rule)
                return rule
        return None


def create_app(token: str) -> FastAPI:
    """Make the application with a state of its own. ``lost`` and ``dropped`` need the server that ``serve`` runs."""
    api = BotApi(token)
    app = FastAPI(title="Stand-in Bot API", docs_url=None, redoc_url=None, openapi_url=None)
    here = [Depends(this_machine_only)]

    def check(sent: str) -> JSONResponse | None:
        return None if sent == api.token else _answer(401, "Unauthorized")

    @app.post("/bot{sent}/sendMessage")
    async def send_message(sent: str, message: Message) -> Response:
        return check(sent) or api.send(message)

    @app.api_route("/bot{sent}/getMe", methods=["GET", "POST"])
    async def get_me(sent: str) -> Any:
        bot = {"id": int(api.token.partition(":")[0]), "is_bot": True, "username": "stand_in_bot"}
        return check(sent) or {"ok": True, "result": bot}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/_messages", dependencies=here)
    async def messages() -> list[dict[str, Any]]:
        return api.messages

    @app.get("/_calls", dependencies=here)
    async def calls() -> list[dict[str, Any]]:
        return api.calls

    @app.post("/_rules", dependencies=here)
    async def queue_rule(rule: Rule) -> dict[str, int]:
        if rule.course not in COURSES:
            raise HTTPException(422, f"There is no course {rule.course!r}: {', '.join(COURSES)}.")
        api.rules.append(rule)
        return {"queued": len(api.rules)}

    @app.post("/_reset", dependencies=here)
    async def reset() -> dict[str, str]:
        for kept in (api.messages, api.calls, api.rules):
            kept.clear()
        return {"status": "ok"}

    return app


def main() -> None:
    """Parse, then serve."""
    parser = argparse.ArgumentParser(
        prog="python -m kaspi_sandbox.telegram",
        description="A stand-in for Telegram's Bot API. It reaches nobody and listens on this machine only.",
        epilog="The bot's token is read from TELEGRAM_BOT_TOKEN.",
    )
    parser.add_argument("--port", type=int, default=8017, help="port (%(default)s)")
    options = parser.parse_args()
    token = os.environ.get("TELEGRAM_BOT_TOKEN", "")
    if not _TOKEN.fullmatch(token):
        parser.error("TELEGRAM_BOT_TOKEN must look like a bot's token: 42:stand-in-token.")
    serve(create_app(token), "Bot API", "127.0.0.1", options.port)


if __name__ == "__main__":
    main()
