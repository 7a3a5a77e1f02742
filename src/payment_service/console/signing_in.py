"""Signing in and out: the form, the one-time link that sets a password, sign-out, the language."""

from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response

from payment_service.console.languages import texts
from payment_service.console.problems import sentence_of, status_of
from payment_service.console.web import (
    HOME,
    SIGN_IN,
    TOKEN,
    Refused,
    Visit,
    delete_session_cookie,
    own_path,
    redirect,
    set_language_cookie,
    set_session_cookie,
)
from payment_service.errors import InvalidInput, NotAuthenticated, ServiceError
from payment_service.languages import Language, mark

_WRONG: Final = mark("The e-mail address or the password is not right.")


async def sign_in(visit: Visit) -> Response:
    """The form, and its submission."""
    wanted = own_path(visit.query("next"))
    if not visit.is_sent:
        return visit.page("sign_in.html", wanted=wanted, email="", problem=None, notice=visit.query("done"))
    email, wanted = visit.form_value("email")[:200], own_path(visit.form_value("next"))
    try:
        token = await visit.services.sessions.sign_in(email, visit.form.get("password", ""), address=visit.address)
    except ServiceError as error:
        is_wrong = isinstance(error, NotAuthenticated)
        problem = texts(visit.language).gettext(_WRONG) if is_wrong else sentence_of(error, visit.language)
        status = 403 if is_wrong else status_of(error)
        return visit.page("sign_in.html", status=status, wanted=wanted, email=email, problem=problem, notice="")
    response = redirect(wanted)
    set_session_cookie(response, visit.request, token)
    return response


async def sign_out(visit: Visit) -> Response:
    """End this session."""
    await visit.services.sessions.sign_out(visit.me)
    response = redirect(SIGN_IN, done="signed-out")
    delete_session_cookie(response, visit.request)
    return response


async def link(visit: Visit) -> Response:
    """The form that sets a password, and its submission. Opening the link does not use it up."""
    token = visit.request.path_params["token"]
    people = visit.services.people
    person = await people.of_link(token) if TOKEN.fullmatch(token) else None
    if person is None:
        return visit.page("link_over.html", status=404)
    if not visit.is_sent:
        return visit.page("link.html", person=person, problem=None)
    password = visit.form.get("password", "")
    try:
        if password != visit.form.get("again", ""):
            problem = texts(visit.language).gettext("The two passwords differ.")
            return visit.page("link.html", status=422, person=person, problem=problem)
        await people.set_password(token, password)
    except NotAuthenticated:
        return visit.page("link_over.html", status=404)
    except InvalidInput:
        weak = sentence_of(InvalidInput("new_password", "is too easy to guess"), visit.language)
        return visit.page("link.html", status=422, person=person, problem=weak)
    response = redirect(HOME)
    session = await visit.services.sessions.sign_in(person.email, password, address=visit.address)
    set_session_cookie(response, visit.request, session)
    return response


async def choose_language(visit: Visit) -> Response:
    """Set the language, and go back to the page that the person came from."""
    code = visit.request.path_params["code"]
    if code not in set(Language):
        raise Refused(404)
    came_from = urlsplit(visit.request.headers.get("Referer", ""))
    is_ours = came_from.netloc == visit.request.headers.get("Host")
    response = redirect(own_path(f"{came_from.path}?{came_from.query}") if is_ours else HOME)
    set_language_cookie(response, visit.request, Language(code))
    return response
