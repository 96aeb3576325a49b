"""Connections that keep somebody else out: those that never finish a request, or never read."""

import socket
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_WITHIN_S = 10.0
"""A connection that has not sent a whole request for this long is cut."""
READ_WITHIN_S = 20.0
"""So is one that does not read what it asked for, a page of frames too."""


class ImpatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, which itself waits for ever for the rest of a request."""

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def] # as uvicorn's
        """Begin to watch the connection."""
        super().connection_made(transport)
        self._waits_since = time.monotonic()
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._waits_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        # The request before it may still be in the app's hands, whose answer would come too late.
        if self.cycle is not None:
            self.cycle.disconnected = True
        super().send_400_response(msg)

    def _watch(self) -> None:
        # A websocket has a protocol of its own, with pings.
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and time.monotonic() - self._waits_since >= REQUEST_WITHIN_S:
            self.transport.abort()
        else:
            self.loop.call_later(REQUEST_WITHIN_S / 4, self._watch)


def cut_who_does_not_read(listening: socket.socket) -> None:
    """Have the system end accepted connections that leave bytes unread, where it can (Linux)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = round(1000 * READ_WITHIN_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
