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
    PageContext,
    Refused,
    delete_session_cookie,
    own_path,
    redirect,
    set_language_cookie,
    set_session_cookie,
)
from payment_service.errors import InvalidInput, NotAuthenticated, ServiceError
from payment_service.languages import Language, mark

_WRONG: Final = mark("The e-mail address or the password is not right.")


async def sign_in(context: PageContext) -> Response:
    """The form, and its submission."""
    wanted = own_path(context.query("next"))
    if not context.is_sent:
        return context.page("sign_in.html", wanted=wanted, email="", problem=None, notice=context.query("done"))
    email, wanted = context.form_value("email")[:200], own_path(context.form_value("next"))
    try:
        token = await context.services.sessions.sign_in(
            email, context.form.get("password", ""), address=context.address
        )
    except ServiceError as error:
        is_wrong = isinstance(error, NotAuthenticated)
        problem = texts(context.language).gettext(_WRONG) if is_wrong else sentence_of(error, context.language)
        status = 403 if is_wrong else status_of(error)
        return context.page("sign_in.html", status=status, wanted=wanted, email=email, problem=problem, notice="")
    response = redirect(wanted)
    set_session_cookie(response, context.request, token)
    return response


async def sign_out(context: PageContext) -> Response:
    """End this session."""
    await context.services.sessions.sign_out(context.me)
    response = redirect(SIGN_IN, done="signed-out")
    delete_session_cookie(response, context.request)
    return response


async def link(context: PageContext) -> Response:
    """The form that sets a password, and its submission. Opening the link does not use it up."""
    token = context.request.path_params["token"]
    people = context.services.people
    person = await people.of_link(token) if TOKEN.fullmatch(token) else None
    if person is None:
        return context.page("link_over.html", status=404)
    if not context.is_sent:
        return context.page("link.html", person=person, problem=None)
    password = context.form.get("password", "")
    try:
        if password != context.form.get("again", ""):
            problem = texts(context.language).gettext("The two passwords differ.")
            return context.page("link.html", status=422, person=person, problem=problem)
        await people.set_password(token, password)
    except NotAuthenticated:
        return context.page("link_over.html", status=404)
    except InvalidInput:
        weak = sentence_of(InvalidInput("new_password", "is too easy to guess"), context.language)
        return context.page("link.html", status=422, person=person, problem=weak)
    response = redirect(HOME)
    session = await context.services.sessions.sign_in(person.email, password, address=context.address)
    set_session_cookie(response, context.request, session)
    return response


async def choose_language(context: PageContext) -> Response:
    """Set the language, and go back to the page that the person came from."""
    code = context.request.path_params["code"]
    if code not in set(Language):
        raise Refused(404)
    came_from = urlsplit(context.request.headers.get("Referer", ""))
    is_ours = came_from.netloc == context.request.headers.get("Host")
    response = redirect(own_path(f"{came_from.path}?{came_from.query}") if is_ours else HOME)
    set_language_cookie(response, context.request, Language(code))
    return response
