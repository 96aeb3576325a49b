"""Access control of the page: the `Host` and `Origin` of a request, and a token beyond loopback."""

import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

COOKIE = "haustra_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Requirements of a request."""

    hosts: frozenset[str]
    """Names and addresses, without port, that `Host` and `Origin` may have."""
    port: int
    token: str | None
    """Required in the query or the cookie; None on loopback."""


class Guard:
    """ASGI middleware that refuses requests which may not talk to the page, with status 403.

    A page of another site that is open in the user's browser can neither read nor command: its
    requests carry its own `Origin`. If it gives its name our address (DNS rebinding), they carry
    its own `Host`.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on allowed requests."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        problem = self._problem(connection)
        if problem is None:
            await self._app(scope, receive, self._adding_headers(send, connection))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason=problem)(scope, receive, send)
        else:
            refusal = PlainTextResponse(f"haustra: {problem}\n", 403, SECURITY_HEADERS)
            await refusal(scope, receive, send)

    def _problem(self, connection: HTTPConnection) -> str | None:
        hosts = connection.headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "this address is not served under that Host"
        for origin in connection.headers.getlist("origin"):
            scheme, _, netloc = origin.partition("://")
            if scheme != "http" or not self._is_ours(netloc):
                return "pages of another Origin may not talk to this one"
        wanted = self._access.token
        if wanted is not None:
            given = [*connection.query_params.getlist("token"), connection.cookies.get(COOKIE, "")]
            if not any(secrets.compare_digest(text.encode(), wanted.encode()) for text in given):
                return "open the address with the token that `haustra view` printed"
        return None

    def _is_ours(self, netloc: str) -> bool:
        try:
            parts = urlsplit(f"//{netloc}")
            port = 80 if parts.port is None else parts.port
        except ValueError:
            return False
        is_plain = parts.username is None and not parts.path
        return is_plain and parts.hostname in self._access.hosts and port == self._access.port

    def _adding_headers(self, send: Send, connection: HTTPConnection) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if self._access.token is not None and "token" in connection.query_params:
                    cookie = f"{COOKIE}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append("set-cookie", cookie)
            await send(message)

        return sending
