"""What all pages share: the session, the check that a form came from our own page, headers and errors.

A page is a function of a ``PageContext``. It needs a session, and a change is refused unless the browser states that it
comes from this site. Errors become pages as well.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from payment_service.access.people import Right
from payment_service.access.sessions import SignedIn
from payment_service.characters import one_line
from payment_service.console import render
from payment_service.console.languages import LANGUAGE_COOKIE, language_of
from payment_service.console.problems import field_of, sentence_of, status_of
from payment_service.errors import InvalidInput, NotAuthenticated, ServiceError
from payment_service.languages import Language
from payment_service.money import Money
from payment_service.observability.logs import get_logger
from payment_service.scheduling.operations import ANSWER_WITHIN_S, NotEndedYet
from payment_service.services import Services
from payment_service.setting_texts import is_loopback

_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_SUM: Final = re.compile(r"[0-9]+(?:[.,][0-9]{1,2})?")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}
HOME: Final = "/console"
SIGN_IN: Final = f"{HOME}/sign-in"
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{20,100}")
"""The form of the token of a session or a one-time link."""
_QUERY: Final = re.compile(r"[A-Za-z0-9=&%+._:-]{0,300}")
_MOST_FIELDS: Final = 100
Ended = TypeVar("Ended")
log = get_logger(__name__)


class Refused(Exception):
    """A page that is not shown; ``status`` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class PageContext:
    """One request for a page, and what every page needs of it."""

    request: Request
    services: Services
    language: Language
    who: SignedIn | None = None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def me(self) -> SignedIn:
        """Who is signed in. Only for pages that need a session."""
        if self.who is None:
            raise NotAuthenticated
        return self.who

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else ""

    @property
    def is_sent(self) -> bool:
        """Whether a form was sent, and not only its page asked for."""
        return self.request.method == "POST"

    @property
    def is_partial(self) -> bool:
        """Whether the request is htmx's, which puts the answer into a page."""
        return self.request.headers.get("HX-Request") == "true"

    def query(self, name: str) -> str:
        """A value of the address, on one line, cut to 200 characters."""
        return one_line(self.request.query_params.get(name, ""))[:200]

    def form_value(self, name: str) -> str:
        """A field of the form, on one line."""
        return one_line(self.form.get(name, ""))

    def id(self, name: str = "id") -> UUID:
        """An id of the path."""
        return uuid_of(self.request.path_params[name])

    def page(self, template: str, *, status: int = 200, **more: Any) -> Response:
        """A page."""
        text = render.page(template, self.language, context=self, me=self.who, **more)
        return HTMLResponse(text, status)

    def form_page(self, template: str, error: ServiceError | None = None, **more: Any) -> Response:
        """A page with a form: with the ``problem`` and the field that is ``wrong``, when it was sent in vain."""
        if error is None:
            return self.page(template, problem=None, wrong=None, **more)
        problem = sentence_of(error, self.language)
        return self.page(template, **{"status": status_of(error), "problem": problem, "wrong": field_of(error), **more})


Page = Callable[[PageContext], Awaitable[Response]]


def page(show: Page, *, needs: Right | None = Right.READ) -> Callable[[Request], Awaitable[Response]]:
    """A page as an endpoint. ``needs``: the right of those who see it; none for pages that need no session."""

    async def endpoint(request: Request) -> Response:
        context = PageContext(request, cast("Services", request.scope["app"].state.services), language_of(request))
        try:
            if context.is_sent:
                _check_origin(request)
                context.form = await _form(request)
            if needs is not None:
                context.who = await signed_in(request, context.services)
                if not context.who.may(needs):
                    raise Refused(403)
            response = await show(context)
        except Exception as error:  # noqa: BLE001 - the last place where a person can get an answer
            response = _error_page(context, error)
        response.headers.update(HEADERS)
        return response

    return endpoint


def _error_page(context: PageContext, error: Exception) -> Response:
    """The page for an error."""
    status = error.status if isinstance(error, Refused) else status_of(error)
    if status == 401:
        return _to_sign_in(context)
    if status == 500:
        log.error("unforeseen error", exc_info=error)
    if context.is_partial:
        # The page stays as it is; the next request may succeed.
        return Response(status_code=status)
    told = None if isinstance(error, Refused) else sentence_of(error, context.language)
    return context.page("problem.html", status=status, code=status, told=told)


def _to_sign_in(context: PageContext) -> Response:
    """Redirect a person without a session to the sign-in page, and from there back to this page."""
    request = context.request
    if request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link in a message: the browser withholds the strict cookie until a page of ours makes the request.
        return context.page("arriving.html", where="")
    if context.is_partial:
        shown = urlsplit(request.headers.get("HX-Current-URL", ""))
        wanted = f"{shown.path}?{shown.query}"
    else:
        wanted = f"{request.url.path}?{request.url.query}" if request.method == "GET" else HOME
    where = address(SIGN_IN, {"next": wanted} if own_path(wanted) != HOME else {})
    if context.is_partial:
        return Response(status_code=401, headers={"HX-Redirect": where})
    return redirect(where)


def own_path(wanted: str) -> str:
    """The path and query of a page of the console; the first page for anything else."""
    path, _, query = wanted.partition("?")
    is_ours = (path == HOME or path.startswith(f"{HOME}/")) and "//" not in path
    if not (is_ours and re.fullmatch(r"[A-Za-z0-9/_-]+", path) and _QUERY.fullmatch(query)):
        return HOME
    return f"{path}?{query}" if query else path


def moment_of(text: str) -> datetime:
    """The time at which a form was made, which it carries.

    Raises:
        Refused: for anything else.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(400) from error
    if moment.tzinfo is None:
        raise Refused(400)
    return moment


def uuid_of(text: str, *, status: int = 404) -> UUID:
    """A UUID.

    Raises:
        Refused: with this status, for anything else.
    """
    try:
        return UUID(text)
    except ValueError as error:
        raise Refused(status) from error


def number_of(text: str) -> int | None:
    """The number of a shop, a key or a person; none for what is none."""
    return int(text) if _NUMBER.fullmatch(text) and int(text) < 2**31 else None


def number_in_path(context: PageContext, name: str = "id") -> int:
    """A number of the path.

    Raises:
        Refused: for anything else.
    """
    number = number_of(context.request.path_params[name])
    if number is None:
        raise Refused(404)
    return number


def money_of(context: PageContext, field: str) -> Money:
    """A sum in tenge as written in a form. 1.500 is refused: it may mean one and a half thousand.

    Raises:
        InvalidInput: for anything else.
    """
    typed = "".join(context.form_value(field).split())  # whatever spaces our own pages group digits by
    if not _SUM.fullmatch(typed):
        raise InvalidInput(field, "is no sum")
    try:
        return Money.from_tenge(typed.replace(",", "."))
    except ValueError as error:
        raise InvalidInput(field, "is no sum") from error


def reason_of(context: PageContext, called: str) -> str:
    """The reason in a form. ``called``: the key of the sentence about a missing one.

    Raises:
        InvalidInput: unless it is a few words.
    """
    reason = context.form_value("reason")
    if not 3 <= len(reason) <= 500:
        raise InvalidInput(called, "is a few words")
    return reason


async def finish_in_time(context: PageContext, operation: Coroutine[Any, Any, Ended]) -> Ended | None:
    """Run an operation that moves money to its end; none when it takes longer than a page may wait."""
    inflight = context.services.inflight
    until = asyncio.get_running_loop().time() + ANSWER_WITHIN_S
    try:
        return await inflight.wait(inflight.begin(operation), until=until)
    except NotEndedYet:
        return None


def uncached_page(context: PageContext, template: str, **more: Any) -> Response:
    """A page with a new secret, which no browser or proxy may cache."""
    response = context.page(template, **more)
    response.headers["Cache-Control"] = "no-store"
    return response


def redirect(where: str, **query: str) -> Response:
    """Show another page, by GET."""
    return RedirectResponse(address(where, query), 303)


def address(where: str, query: Mapping[str, str]) -> str:
    """An address with its query, if it has one."""
    return f"{where}?{urlencode(query)}" if query else where


def csv_file(name: str, lines: AsyncIterator[bytes] | Iterator[bytes]) -> Response:
    """A file for a spreadsheet, which the browser saves."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


# --- forms


def _check_origin(request: Request) -> None:
    """Refuse a form that another site made this browser send."""
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        is_ours = fetch_site == "same-origin"
    else:
        origin = request.headers.get("Origin", "")
        is_ours = bool(origin) and urlsplit(origin).netloc == request.headers.get("Host")
    if not is_ours:
        raise Refused(403)


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form; of one that is given twice, the last."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if body and kind != "application/x-www-form-urlencoded":
        raise Refused(415)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise Refused(400) from error


# --- the cookie of a session


def set_session_cookie(response: Response, request: Request, token: str) -> None:
    """Set the cookie of a session, until the browser is closed; the session itself may end sooner."""
    name, secure = cookie_of(request)
    response.set_cookie(name, token, path=HOME, secure=secure, httponly=True, samesite="strict")


def delete_session_cookie(response: Response, request: Request) -> None:
    """Delete the cookie of a session."""
    name, secure = cookie_of(request)
    response.delete_cookie(name, path=HOME, secure=secure, httponly=True, samesite="strict")


def set_language_cookie(response: Response, request: Request, language: Language) -> None:
    """Set the cookie of the language, for a year."""
    _, secure = cookie_of(request)
    response.set_cookie(
        LANGUAGE_COOKIE, language, max_age=31_536_000, path=HOME, secure=secure, httponly=True, samesite="lax"
    )


async def signed_in(request: Request, services: Services) -> SignedIn:
    """The person of the session; from here on audit entries name them.

    Raises:
        NotAuthenticated: without a valid session.
    """
    return await services.sessions.of(_token(request))


def _token(request: Request) -> str:
    token = request.cookies.get(cookie_of(request)[0], "")
    if not TOKEN.fullmatch(token):
        raise NotAuthenticated
    return token


def cookie_of(request: Request, kind: str = "") -> tuple[str, bool]:
    """The name of a session's or another cookie, and whether it is for TLS only: unless on this machine."""
    is_here = request.url.scheme == "http" and is_loopback(request.url.hostname or "")
    name = f"console-{kind}" if kind else "console"
    return (name, False) if is_here else (f"__Secure-{name}", True)


async def require_proof(context: PageContext) -> None:
    """Require the password again unless the person has proved who they are a short time ago.

    Raises:
        InvalidInput: when the form does not hold it.
        RateLimited: after too many attempts.
        Refused: when the session ended meanwhile; no form shows that as its error.
    """
    if context.me.has_proved:
        return
    password = context.form.get("password", "")
    if not password:
        raise InvalidInput("password" if context.me.person.password_hash else "proof", "is needed")
    try:
        await context.services.sessions.prove(context.me, password, address=context.address)
    except NotAuthenticated as error:
        raise Refused(401) from error
