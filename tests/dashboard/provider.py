"""A small OpenID provider on 127.0.0.1: it knows one user and asks for no password."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT = {"client_id": "routeprint", "client_secret": "only-for-this-test"}


class Provider:
    """The answers of the provider; `claims` are what it says of its user."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.claims: dict[str, Any] = {"sub": "1", "email": "ada@lab.example", "email_verified": True}
        self.nonces: dict[str, str] = {}
        self.url = ""

    async def configuration(self, _request: Request) -> Response:
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        said = {name: f"{self.url}/{path}" for name, path in names.items()} | {"issuer": self.url}
        said |= {"response_types_supported": ["code"], "subject_types_supported": ["public"]}
        return JSONResponse(said | {"id_token_signing_alg_values_supported": ["RS256"]})

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        self.nonces["code-1"] = asked.get("nonce", "")
        query = urlencode({"code": "code-1", "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{query}", 303)

    async def token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        basic = base64.b64encode(f"{CLIENT['client_id']}:{CLIENT['client_secret']}".encode()).decode()
        given = request.headers.get("authorization") == f"Basic {basic}"
        if not given and form.get("client_secret") != [CLIENT["client_secret"]]:
            return JSONResponse({"error": "invalid_client"}, 401)
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT["client_id"], "iat": now, "exp": now + 600, **self.claims}
        claims |= {"nonce": self.nonces[form["code"][0]]}
        id_token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "expires_in": 600, "id_token": id_token})

    async def keys(self, _request: Request) -> Response:
        return Response(json.dumps({"keys": [self.key.as_dict(private=False)]}), media_type="application/json")


@contextmanager
def provider() -> Iterator[Provider]:
    """Run the provider until the block ends."""
    made = Provider()
    routes = [
        Route("/.well-known/openid-configuration", made.configuration),
        Route("/authorize", made.authorize),
        Route("/token", made.token, methods=["POST"]),
        Route("/keys", made.keys),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(timeout=10)
