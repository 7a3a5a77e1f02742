"""Signing in through an OpenID provider, and proving who one is again: the redirect there, and the callback.

The browser goes there by a link, so that no form leads to another site. Coming back from another site, it sends the
cookie of the attempt, which is lax for that, but not the session's cookie, which is strict, not even after a redirect.
So the callback answers with a page that goes on by itself, which is a navigation within this site.
"""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from payment_service.access.openid import ATTEMPT_LASTS_S, OpenId, OpenIdRefused, Refusal
from payment_service.console.languages import texts
from payment_service.console.web import (
    HOME,
    SIGN_IN,
    PageContext,
    Refused,
    cookie_of,
    own_path,
    redirect,
    set_session_cookie,
)
from payment_service.languages import mark

PATH: Final = f"{HOME}/openid"
_LONGEST: Final = 4000
"""The longest value from the provider, and of the cookie."""
_SENTENCES: Final[Mapping[Refusal, tuple[int, str]]] = {
    Refusal.AWAY: (503, mark("%(host)s does not answer as it should. Try again in a minute, or tell an engineer.")),
    Refusal.OVER: (400, mark("It took too long, or was begun in another window. Begin once more.")),
    Refusal.DENIED: (403, mark("%(host)s did not let you in.")),
    Refusal.NOT_PROVEN: (
        403,
        mark("What %(host)s sent does not prove who you are. Begin once more, or tell an engineer."),
    ),
    Refusal.NOT_VERIFIED: (403, mark("%(host)s does not say that your e-mail address is verified: verify it there.")),
    Refusal.NO_ACCOUNT: (403, mark("There is no account here with your e-mail address: an administrator makes one.")),
    Refusal.ANOTHER_PERSON: (403, mark("You are signed in there as somebody else.")),
    Refusal.NOT_ASKED_AGAIN: (403, mark("%(host)s does not say that it asked you just now, so nothing was confirmed.")),
}


async def sign_in(context: PageContext) -> Response:
    """Redirect to the provider to sign in."""
    wanted = own_path(context.query("next"))
    if context.request.headers.get("Sec-Fetch-Site") == "cross-site":
        return redirect(SIGN_IN, next=wanted)
    return await _to_provider(context, wanted, session=None)


async def confirm(context: PageContext) -> Response:
    """Redirect a person who is signed in to the provider, to prove who they are again."""
    return await _to_provider(context, own_path(context.query("next")), session=context.me.digest)


async def callback(context: PageContext) -> Response:
    """The callback from the provider."""
    openid = _set_up(context)
    name, _ = cookie_of(context.request, "openid")
    answer = {key: value[:_LONGEST] for key, value in context.request.query_params.items()}
    sealed = context.request.cookies.get(name, "")[:_LONGEST]
    try:
        arrived = await openid.finish(sealed, answer, address=context.address)
    except OpenIdRefused as refused:
        response = _refused(context, refused)
        if refused.wanted is None:
            return response  # the cookie is of another attempt, which may end well: begun in another window meanwhile
    else:
        response = context.page("arriving.html", where=arrived.wanted)
        if arrived.token is not None:
            set_session_cookie(response, context.request, arrived.token)
    _keep(context, response, "", for_s=0)
    return response


async def _to_provider(context: PageContext, wanted: str, *, session: str | None) -> Response:
    try:
        begun = await _set_up(context).begin(wanted, session=session)
    except OpenIdRefused as refused:
        return _refused(context, OpenIdRefused(refused.why, wanted))
    response = redirect(begun.url)
    _keep(context, response, begun.sealed, for_s=ATTEMPT_LASTS_S)
    return response


def _refused(context: PageContext, refused: OpenIdRefused) -> Response:
    status, sentence = _SENTENCES[refused.why]
    told = texts(context.language).gettext(sentence) % {"host": _set_up(context).host}
    return context.page("openid_refused.html", status=status, told=told, where=refused.wanted or HOME)


def _set_up(context: PageContext) -> OpenId:
    if context.services.openid is None:
        raise Refused(404)
    return context.services.openid


def _keep(context: PageContext, response: Response, sealed: str, *, for_s: int) -> None:
    """Set the cookie of an attempt, which the browser sends to the callback; with 0 seconds, delete it."""
    name, secure = cookie_of(context.request, "openid")
    response.set_cookie(name, sealed, max_age=for_s, path=PATH, secure=secure, httponly=True, samesite="lax")
