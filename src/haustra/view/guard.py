"""Access control of the page: the `Host` and `Origin` of a request, and a token beyond loopback."""

import secrets
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from haustra.view.addresses import Address

COOKIE = "haustra_token"
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'self'; "
    "frame-ancestors 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Requirements of a request."""

    names: frozenset[str]
    """Names and addresses that `Host` may have, with any port: a tunnel changes the port."""
    public: tuple[Address, ...] = ()  # addresses that `Host` and `Origin` may have besides
    root_path: str = ""  # prefix of every path, such as /haustra; a proxy may have removed it
    token: str | None  # required in the query or the cookie; None on loopback


class Guard:
    """ASGI middleware that refuses requests which may not talk to the page, with status 403.

    A page of another site that is open in the user's browser can neither read nor command: its
    requests carry its own `Origin`. If it gives its name our address (DNS rebinding), they carry
    its own `Host`. Requests that pass lose the root path.
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
            path, root = scope["path"], self._access.root_path
            if f"{path}/".startswith(f"{root}/"):
                path = path[len(root) :]
            inner = {**scope, "path": "/" + path.lstrip("/")}
            await self._app(inner, receive, self._adding_headers(send, connection))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason=problem)(scope, receive, send)
        else:
            refusal = PlainTextResponse(f"haustra: {problem}\n", 403, SECURITY_HEADERS)
            await refusal(scope, receive, send)

    def _problem(self, connection: HTTPConnection) -> str | None:
        access, hosts = self._access, connection.headers.getlist("host")
        host = _parse_header(hosts[0]) if len(hosts) == 1 else None
        names = access.names.union(address.name for address in access.public)
        if host is None or host.scheme or host.name not in names:
            return "this address is not served under that Host; --allow-host NAME permits a name"
        for text in connection.headers.getlist("origin"):
            origin = _parse_header(text)
            if origin is None or not self._is_allowed(origin, host=host):
                return (
                    "pages of another Origin may not talk to this one; --allow-host NAME:PORT "
                    "permits one"
                )
        wanted = access.token
        if wanted is not None:
            given = [*connection.query_params.getlist("token"), connection.cookies.get(COOKIE, "")]
            if not any(secrets.compare_digest(text.encode(), wanted.encode()) for text in given):
                return "open the address with the token that `haustra view` printed"
        return None

    def _is_allowed(self, origin: Address, *, host: Address) -> bool:
        """Return whether an origin is the page's: that of the request, or a public address."""
        if origin.scheme is None:
            return False
        port = origin.port_of(origin.scheme)
        if (origin.name, port) == (host.name, host.port_of(origin.scheme)):
            return True
        # A proxy may have replaced the Host, or removed its port.
        return any(
            origin.name == public.name
            and public.scheme in (None, origin.scheme)
            and port == public.port_of(origin.scheme)
            for public in self._access.public
        )

    def _adding_headers(self, send: Send, connection: HTTPConnection) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if self._access.token is not None and "token" in connection.query_params:
                    cookie = f"{COOKIE}={self._access.token}; HttpOnly; SameSite=Strict"
                    headers.append("set-cookie", f"{cookie}; Path={self._access.root_path or '/'}")
            await send(message)

        return sending


def _parse_header(text: str) -> Address | None:
    # Browsers send ASCII only. Python would import a codec for the rest.
    return Address.parse(text) if text.isascii() else None
