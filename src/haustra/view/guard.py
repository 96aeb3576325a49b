"""Who may talk to the page: the right `Host`, the right `Origin`, and beyond loopback a token."""

import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "haustra_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECURITY_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'"
        b"; frame-ancestors 'none'; form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request must show."""

    hosts: frozenset[str]
    """Names and addresses, without port, that `Host` and `Origin` may have."""
    port: int
    token: str | None
    """Asked for, in the query or the cookie; None on loopback."""


def _name_and_port(netloc: str, *, default_port: int) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"//{netloc}")
        port = parts.port
    except ValueError:
        return None
    if parts.hostname is None or parts.username is not None or parts.path:
        return None
    return parts.hostname, default_port if port is None else port


class Guard:
    """ASGI middleware that answers 403 to whoever may not talk to the page.

    A page of another site that the user has open can neither read nor command: its requests carry
    its own `Origin`, and one that gives itself our address's name (DNS rebinding) its own `Host`.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        problem = self._problem(scope, headers)
        if problem is None:
            await self._app(scope, receive, self._with_headers(send, scope=scope))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            body = f"haustra: {problem}\n".encode()
            start = [(b"content-type", b"text/plain; charset=utf-8"), *SECURITY_HEADERS]
            await send({"type": "http.response.start", "status": 403, "headers": start})
            await send({"type": "http.response.body", "body": body})

    def _problem(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> str | None:
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0].decode("latin-1")):
            return "this address is not served under that Host"
        for origin in headers.get(b"origin", []):
            scheme, _, netloc = origin.decode("latin-1").partition("://")
            if scheme != "http" or not self._is_ours(netloc):
                return "pages of another Origin may not talk to this one"
        if self._access.token is not None and not self._has_token(scope, headers):
            return "open the address with the token that `haustra view` printed"
        return None

    def _is_ours(self, netloc: str) -> bool:
        found = _name_and_port(netloc, default_port=80)
        return (
            found is not None and found[0] in self._access.hosts and found[1] == self._access.port
        )

    def _has_token(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        for line in headers.get(b"cookie", []):
            try:
                cookie = SimpleCookie(line.decode("latin-1"))
            except CookieError:
                continue
            given += [cookie[COOKIE].value] if COOKIE in cookie else []
        wanted = (self._access.token or "").encode()
        return any(secrets.compare_digest(text.encode(), wanted) for text in given)

    def _with_headers(self, send: Send, *, scope: Scope) -> Send:
        token = self._access.token
        asked = token is not None and b"token=" in scope["query_string"]

        async def sending(message: "dict[str, object]") -> None:
            if message["type"] == "http.response.start":
                added = list(SECURITY_HEADERS)
                if asked:
                    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
                    added.append((b"set-cookie", cookie.encode()))
                message = {**message, "headers": [*message["headers"], *added]}  # type: ignore[misc]
            await send(message)

        return sending  # type: ignore[return-value]
