"""A small OpenID provider on this machine: a program that vouches for whoever the test says, well or badly.

``POST /_next`` sets what comes next: ``claims`` that are other than usual (null: left out), ``sign`` with a key that is
not published (``forged``), with the client's secret (``hmac``), not at all (``none``) or as it should be, ``error`` of
the authorization, and whether a ``page`` stands between. ``userinfo`` is what it states about the person apart from the
ID token, whose e-mail address is then left out. ``exchange`` gives it a new key of the same name. Codes work once, for
whoever holds the verifier.
"""

import argparse
import base64
import hashlib
import html
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID, CLIENT_SECRET = "payments-console", "a secret+of/the:tests=%30123456789-é"


class Provider:
    """What the provider knows."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key, self.unpublished = (RSAKey.generate_key(2048, {"kid": "k1"}) for _ in range(2))
        self.codes: dict[str, dict[str, str]] = {}
        self.next: dict[str, Any] = {}
        self.asked: list[dict[str, str]] = []

    async def configure(self, request: Request) -> Response:
        self.next = await request.json()
        if self.next.get("exchange"):
            self.key = RSAKey.generate_key(2048, {"kid": "k1"})
        self.asked.clear()
        return Response()

    async def requests(self, _: Request) -> Response:
        return JSONResponse(self.asked)

    async def metadata(self, _: Request) -> Response:
        names = {
            "authorization_endpoint": "authorize",
            "token_endpoint": "token",
            "userinfo_endpoint": "userinfo",
            "jwks_uri": "keys",
        }
        return JSONResponse({"issuer": self.issuer, **{name: f"{self.issuer}/{path}" for name, path in names.items()}})

    async def keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [{"kty": "of tomorrow"}, self.key.as_dict(private=False)]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.asked.append(asked)
        back = {"state": asked["state"], "iss": self.issuer}
        if "error" in self.next:
            back["error"] = self.next["error"]
        else:
            back["code"] = secrets.token_urlsafe(16)
            self.codes[back["code"]] = asked
        where = f"{asked['redirect_uri']}?{urlencode(back)}"
        if self.next.get("page"):
            # As when it asks for a password: from here on the way is one from another site.
            return HTMLResponse(f'<title>Provider</title><a href="{html.escape(where)}">Go back</a>')
        return RedirectResponse(where, 302)

    async def token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        self.asked.append(form)
        asked = self.codes.pop(form.get("code", ""), None)
        client = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        known = tuple(unquote_plus(part) for part in client.split(":"))
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or known != (CLIENT_ID, CLIENT_SECRET) or asked["code_challenge"] != challenge:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": self.id_token(asked)})

    async def userinfo(self, request: Request) -> Response:
        if request.headers.get("Authorization") != "Bearer x":
            return JSONResponse({"error": "invalid_token"}, 401)
        return JSONResponse(self.next.get("userinfo", {"sub": "42"}))

    def id_token(self, asked: dict[str, str]) -> str:
        """What is said of the person, signed as the test wants it."""
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "sub": "42",
            "aud": asked["client_id"],
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "auth_time": now,
            "email": "operator@example.kz",
            "email_verified": True,
        }
        if "userinfo" in self.next:
            usual.update(email=None, email_verified=None)
        given = {**usual, **self.next.get("claims", {})}
        claims = {name: value for name, value in given.items() if value is not None}
        match self.next.get("sign"):
            case "none":
                head, body = ({"alg": "none", "kid": "k1"}, claims)
                parts = [
                    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (head, body)
                ]
                return f"{parts[0]}.{parts[1]}."
            case "hmac":
                return jwt.encode({"alg": "HS256", "kid": "k1"}, claims, OctKey.import_key(CLIENT_SECRET), ["HS256"])
            case "forged":
                return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, self.unpublished)
            case "unknown key":
                return jwt.encode({"alg": "RS256", "kid": "k2"}, claims, self.unpublished)
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, self.key)


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    provider = Provider(f"http://127.0.0.1:{port}")
    routes = [
        Route("/.well-known/openid-configuration", provider.metadata),
        Route("/health", provider.metadata),
        Route("/keys", provider.keys),
        Route("/authorize", provider.authorize),
        Route("/token", provider.token, methods=["POST"]),
        Route("/userinfo", provider.userinfo),
        Route("/_next", provider.configure, methods=["POST"]),
        Route("/_requests", provider.requests),
    ]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
