"""Requests to an OpenID provider, and which of its answers are trusted. Uses Authlib and joserfc.

An ID token is valid when one of the provider's keys signed it, by an algorithm with a public key, for this client, for
this attempt (nonce), and it has not expired. The provider's metadata and keys are read again every hour, and also when
none of the keys signed a token: they may have been exchanged. Imported when somebody signs in with it.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import quote_plus, urlsplit

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.client import OAuth2Client
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet
from joserfc.jws import JWSRegistry

from payment_service.access.openid import LEEWAY_S, Identity, OpenIdRefused, Refusal
from payment_service.access.settings import OpenIdSettings
from payment_service.observability.logs import get_logger
from payment_service.outbound.fetching import FetchError, fetch

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""All with a key pair: ``none`` proves nothing, and with HMAC our own secret would be a key."""
_KNOWN_FOR_S: Final = 3600
_RETRY_AFTER_S: Final = 10
"""How long after a failure, or an unknown key, the provider is not asked again."""
_JSON: Final = {"Accept": "application/json"}
_FORM: Final = "application/x-www-form-urlencoded"
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The provider's metadata."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    """Empty when it has none."""
    by_post: bool
    """Whether it accepts the client's secret only in the form."""
    keys: KeySet
    until: float
    """Of the loop's time."""


class Provider:
    """One provider, as this client knows it."""

    def __init__(self, settings: OpenIdSettings) -> None:
        self._settings = settings
        self._known: _Metadata | None = None
        self._not_before = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def authorization_url(self, *, state: str, nonce: str, verifier: str, ask_again: bool) -> str:
        """Where the browser goes. ``ask_again``: the provider authenticates the person again.

        Raises:
            OpenIdRefused: when its metadata cannot be read.
        """
        known = await self._read()
        client = OAuth2Client(
            None,
            client_id=self._settings.client_id,
            scope="openid email",
            redirect_uri=self._settings.redirect_uri,
            code_challenge_method="S256",
        )
        again = {"prompt": "login", "max_age": "0"} if ask_again else {}
        url, _ = client.create_authorization_url(
            known.authorization_endpoint, state=state, code_verifier=verifier, nonce=nonce, **again
        )
        return str(url)

    async def identity(self, code: str, *, nonce: str, verifier: str) -> Identity:
        """Who a code stands for.

        Raises:
            OpenIdRefused: when the provider refuses the code, or its token is not valid.
        """
        known = await self._read()
        reply = await self._exchange(known, code, verifier)
        claims = await self._verified(known, str(reply.get("id_token")), nonce, reply.get("access_token"))
        # A provider that issues an access token may state these there instead (OpenID Connect Core, 5.4).
        stated = claims if "email" in claims else await self._userinfo(known, reply.get("access_token"), claims["sub"])
        email, at = stated.get("email"), claims.get("auth_time")
        is_address = isinstance(email, str) and email != "" and email.isprintable()
        return Identity(
            email=email if is_address and stated.get("email_verified") is True else None,
            authenticated_at=at if isinstance(at, int | float) and not isinstance(at, bool) else None,
        )

    # --- steps

    async def _exchange(self, known: _Metadata, code: str, verifier: str) -> dict[str, Any]:
        """What the provider returns for a code."""
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._settings.redirect_uri, code=code, code_verifier=verifier
        )
        client = self._settings.client_id, self._settings.client_secret
        if known.by_post:
            auth = ClientAuth(*client, "client_secret_post")
        else:  # encoded before they are joined (RFC 6749, 2.3.1), which Authlib leaves to us
            auth = ClientAuth(*map(quote_plus, client), "client_secret_basic")
        headers = {**_JSON, "Content-Type": _FORM}
        url, headers, body = auth.prepare("POST", known.token_endpoint, headers, body)
        try:
            status, reply = await fetch(url, method="POST", headers=headers, body=body)
        except FetchError as error:
            _refuse(Refusal.AWAY, f"token endpoint: {error}")
        if status != 200:
            _refuse(Refusal.AWAY if status >= 500 else Refusal.NOT_PROVEN, f"token endpoint: {status}")
        return _object(reply) or _refuse(Refusal.AWAY, "token endpoint: no JSON object")

    async def _userinfo(self, known: _Metadata, access_token: object, subject: object) -> dict[str, Any]:
        """What the provider states about the person of an ID token; nothing when it has no such endpoint."""
        is_token = isinstance(access_token, str) and re.fullmatch(r"[!-~]+", access_token)
        if not (known.userinfo_endpoint and is_token):
            return {}
        headers = {**_JSON, "Authorization": f"Bearer {access_token}"}
        stated = await self._document(known.userinfo_endpoint, headers)
        return stated if stated.get("sub") == subject else _refuse(Refusal.NOT_PROVEN, "userinfo: another person")

    async def _verified(self, known: _Metadata, id_token: str, nonce: str, access_token: object) -> dict[str, Any]:
        """The claims of a valid ID token."""
        try:
            try:
                token = _decoded(id_token, known.keys)
            except (InvalidKeyIdError, BadSignatureError):
                known = await self._read(anew=True)
                token = _decoded(id_token, known.keys)
            claims = CodeIDToken(
                token.claims,
                token.header,
                options={
                    "iss": {"essential": True, "value": self._settings.issuer},
                    "aud": {"essential": True, "value": self._settings.client_id},
                },
                params={"nonce": nonce, "client_id": self._settings.client_id, "access_token": access_token},
            )
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError) as error:
            _refuse(Refusal.NOT_PROVEN, f"ID token: {type(error).__name__}")
        return dict(claims)

    async def _read(self, *, anew: bool = False) -> _Metadata:
        """The provider's metadata, read again when too old, or when ``anew`` and not read a moment ago."""
        now = asyncio.get_running_loop().time
        async with self._one_at_a_time:
            is_fresh = self._known is not None and now() < self._known.until
            if self._known is not None and is_fresh and not (anew and now() >= self._not_before):
                return self._known
            if now() < self._not_before:
                raise OpenIdRefused(Refusal.AWAY)
            try:
                self._known = await self._metadata()
            finally:  # counted from the end: a provider that hangs would keep each who waits here for as long again
                self._not_before = now() + _RETRY_AFTER_S
            return self._known

    async def _metadata(self) -> _Metadata:
        metadata = await self._document(self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if metadata.get("issuer") != self._settings.issuer:
            _refuse(Refusal.AWAY, "its document names another issuer")
        states_apart = "userinfo_endpoint" in metadata
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return _Metadata(
            authorization_endpoint=self._endpoint(metadata, "authorization_endpoint"),
            token_endpoint=self._endpoint(metadata, "token_endpoint"),
            userinfo_endpoint=self._endpoint(metadata, "userinfo_endpoint") if states_apart else "",
            by_post="client_secret_basic" not in methods,
            keys=_keys(await self._document(self._endpoint(metadata, "jwks_uri"))),
            until=asyncio.get_running_loop().time() + _KNOWN_FOR_S,
        )

    async def _document(self, url: str, headers: Mapping[str, str] = _JSON) -> dict[str, Any]:
        try:
            status, reply = await fetch(url, headers=headers)
        except FetchError as error:
            _refuse(Refusal.AWAY, f"{urlsplit(url).path}: {error}")
        found = _object(reply) if status == 200 else None
        return found or _refuse(Refusal.AWAY, f"{urlsplit(url).path}: {status}, no JSON object")

    def _endpoint(self, metadata: dict[str, Any], name: str) -> str:
        """A URL of the provider: over TLS, unless the issuer itself is without, on this machine."""
        url = str(metadata.get(name))
        try:
            scheme = urlsplit(url).scheme
        except ValueError:
            scheme = ""
        if scheme not in {"https", urlsplit(self._settings.issuer).scheme}:
            _refuse(Refusal.AWAY, f"its {name} is none")
        return url


def _decoded(id_token: str, keys: KeySet) -> jwt.Token:
    # Headers that nobody knows are allowed, unless they are critical.
    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    return jwt.decode(id_token, keys, registry=registry)


def _keys(document: dict[str, Any]) -> KeySet:
    """The usable keys. A key of an unknown kind does not make the others unusable."""
    keys: list[Key] = []
    listed = document.get("keys")
    for data in listed if isinstance(listed, list) else ():
        try:
            key = JWKRegistry.import_key(data)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
        if key.key_type != "oct":
            keys.append(key)
    return KeySet(keys)


def _object(reply: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse(why: Refusal, what: str) -> NoReturn:
    log.warning("OpenID provider not believed", why=why, what=what)
    raise OpenIdRefused(why)
