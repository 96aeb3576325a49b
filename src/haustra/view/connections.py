"""Time limits that uvicorn lacks, so that idle or hostile connections do not lock users out.

uvicorn waits without end for the rest of a request, and its limit on connections counts those that
wait. 200 connections that send nothing would use up that limit. It also never ends a connection
that does not read.
"""

import socket
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_REQUEST_S = 10.0  # time within which a connection has to send a whole request
MAX_UNREAD_S = 20.0  # time for which a connection, also of a page, may leave bytes unread


class TimedProtocol(H11Protocol):
    """HTTP by uvicorn, which closes a connection that does not send a whole request in time."""

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def] # as uvicorn's
        """Begin to check the connection."""
        super().connection_made(transport)
        self._waiting_since = time.monotonic()
        self._check()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._waiting_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request."""
        # The app may still be at work on the request before it; its answer would come too late.
        if self.cycle is not None:
            self.cycle.disconnected = True
        super().send_400_response(msg)

    def _check(self) -> None:
        # A websocket has a protocol of its own, with pings.
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and time.monotonic() - self._waiting_since >= MAX_REQUEST_S:
            self.transport.abort()
        else:
            self.loop.call_later(MAX_REQUEST_S / 4, self._check)


def limit_unread_time(listening: socket.socket) -> None:
    """Have the system close accepted connections that leave bytes unread, on Linux."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = round(1000 * MAX_UNREAD_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
