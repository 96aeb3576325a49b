"""The server of the page: Starlette and uvicorn, with one websocket per page.

A page acknowledges each frame that it has drawn, and only then gets the newest one. So nothing
queues on the way, however slow the page is. No file is read for a request, except those of the
training that is shown.
"""

import asyncio
import errno
import json
import os
import platform
import secrets
import socket
import struct
import time
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from haustra.core.errors import HaustraError, needs_extra, option
from haustra.core.field_of_view import FieldOfView
from haustra.core.outputs import check_outputs
from haustra.inference.pictures import operating_point
from haustra.view.addresses import LOOPBACK, Address, plain_name
from haustra.view.config import ViewConfig
from haustra.view.feed import Feed, Shot
from haustra.view.session import open_detectors
from haustra.view.simulator_source import open_source

with needs_extra("view", needed_for="haustra view"):
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    from haustra.view.commands import MAX_BYTES, parse_command
    from haustra.view.connections import TimedProtocol, limit_unread_time
    from haustra.view.guard import Access, Guard
    from haustra.view.training_page import TrainingFolder

DEFAULT_RECORDINGS = Path("recordings")
STATIC = Path(__file__).parent / "static"
PAGES = {"/": "view.html", "/training": "training.html"}
MIME = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MAX_PAGES = 32
MAX_BAD_MESSAGES = 20  # number of malformed messages after which a page is closed
MAX_ACK_S = 5.0  # time after which a page that does not acknowledge a frame gets the next one
TIMELINE_EVERY_S = 0.5
STATE_EVERY_S = 1.0
"""Interval at which a page gets the state again, so that it knows that the server is there."""
STATE_CHECK_S = 0.2  # interval at which the state is compared with the one that was sent
MAX_WAITING_COMMANDS = 50  # number of waiting commands above which no further message is read


class _Timeline:
    """The timeline's message, made once for all pages that need it at about the same time."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self._lock = feed, asyncio.Lock()
        self._version, self._made_at, self._text = 0, 0.0, ""

    async def message(self, shot: Shot) -> str:
        """Return the message for a shot; during playback it may be slightly older."""
        async with self._lock:
            is_fresh = time.monotonic() - self._made_at < TIMELINE_EVERY_S / 2
            if self._version < shot.version and not (shot.header["playing"] and is_fresh):
                self._version, self._made_at = shot.version, time.monotonic()
                columns = await asyncio.to_thread(self._feed.timeline)
                self._text = json.dumps({"kind": "timeline", **columns})
            return self._text


class _Page:
    """An open page."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.changed, self.acknowledged = asyncio.Event(), asyncio.Event()
        self.changed.set()
        self.acknowledged.set()
        self.sent_version = 0
        self.sent_at, self.timeline_at = 0.0, 0.0
        self.round_trip_s = 0.0  # time from sending the last frame to its acknowledgment


def frame_message(shot: Shot, *, round_trip_s: float = 0.0) -> bytes:
    """Return a shot as bytes: length of the header (4 bytes, big endian), header JSON, JPEG."""
    header = {
        "kind": "frame",
        "age_ms": round(1000 * (time.monotonic() - shot.header["captured_at"]), 1),
        "round_trip_ms": round(1000 * round_trip_s, 1),
        **shot.header,
    }
    text = json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + shot.jpeg


def _file_routes(root_path: str) -> list[Route]:
    """Return the routes of the pages and their scripts, which lie below `root_path`."""
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in MIME}
    if root_path:  # URLs in the pages are relative; the page's own may lack the last slash
        base = f'<head>\n<base href="{root_path}/">'.encode()
        files |= {name: files[name].replace(b"<head>", base) for name in PAGES.values()}

    async def file(request: Request) -> Response:
        name = PAGES.get(request.url.path) or request.path_params.get("name", "")
        if name not in files:
            return PlainTextResponse("haustra: no such page\n", 404)
        return Response(files[name], media_type=MIME[Path(name).suffix])

    return [*[Route(path, file) for path in PAGES], Route("/static/{name}", file)]


def _training_routes(training: TrainingFolder) -> list[Route]:
    # Starlette runs both in a thread.
    def values(_: Request) -> Response:
        return JSONResponse(training.values())

    def gallery(_: Request) -> Response:
        image = training.gallery()
        if image is None:
            return PlainTextResponse("haustra: no gallery yet\n", 404)
        return Response(image, media_type="image/png")

    return [Route("/training/values", values), Route("/training/gallery", gallery)]


def build_app(
    feed: Feed,
    *,
    access: Access,
    training: TrainingFolder,
    started: Callable[[], None] = lambda: None,
) -> Starlette:
    """Build the ASGI app of the page; it calls `started` once it serves."""
    pages: set[_Page] = set()
    timeline = _Timeline(feed)

    def notify() -> None:
        for page in pages:
            page.changed.set()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def published() -> None:
            with suppress(RuntimeError):  # the loop has ended and the feed is ending
                loop.call_soon_threadsafe(notify)

        feed.listen(published)
        feed.start()
        started()
        try:
            yield
        finally:
            await asyncio.to_thread(feed.stop)

    async def status(_: Request) -> Response:
        state = feed.state()
        return JSONResponse(state, status_code=503 if state["state"] == "failed" else 200)

    async def watch(websocket: WebSocket) -> None:
        if len(pages) >= MAX_PAGES:
            await websocket.close(code=1013, reason="too many pages are open")
            return
        await websocket.accept()
        page = _Page(websocket)
        pages.add(page)
        sending = [
            asyncio.create_task(_send_states(page, feed=feed)),
            asyncio.create_task(_send_frames(page, feed=feed, timeline=timeline)),
        ]
        try:
            await _receive_commands(page, feed=feed)
        finally:
            pages.discard(page)
            for task in sending:
                task.cancel()
                # The last two: the page went away while something was sent.
                with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                    await task

    app = Starlette(
        routes=[
            *_file_routes(access.root_path),
            *_training_routes(training),
            Route("/status", status),
            WebSocketRoute("/feed", watch),
        ],
        lifespan=lifespan,
    )
    app.add_middleware(Guard, access=access)
    return app


async def _receive_commands(page: _Page, *, feed: Feed) -> None:
    num_bad = 0
    while True:
        message = await page.websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is None:
            text = message.get("bytes") or b""
        if text == "ack":
            page.round_trip_s = time.monotonic() - page.sent_at
            page.acknowledged.set()
            continue
        command = parse_command(text)
        if command is not None:
            while feed.num_waiting_commands > MAX_WAITING_COMMANDS:
                await asyncio.sleep(0.02)
            feed.command(command)
            continue
        num_bad += 1
        if num_bad > MAX_BAD_MESSAGES:
            await page.websocket.close(code=1008, reason="too many malformed messages")
            return


async def _send_states(page: _Page, *, feed: Feed) -> None:
    """Send the state at once, at every change, and each second."""
    sent: dict[str, Any] = {}
    sent_at = 0.0
    while True:
        state = feed.state()
        if state != sent or time.monotonic() - sent_at >= STATE_EVERY_S:
            sent, sent_at = state, time.monotonic()
            await page.websocket.send_text(json.dumps({"kind": "state", **state}))
        await asyncio.sleep(STATE_CHECK_S)


async def _send_frames(page: _Page, *, feed: Feed, timeline: _Timeline) -> None:
    while True:
        await page.changed.wait()
        page.changed.clear()
        shot = feed.shot
        if shot is None or shot.version == page.sent_version:
            continue
        with suppress(TimeoutError):
            await asyncio.wait_for(page.acknowledged.wait(), MAX_ACK_S)
        page.acknowledged.clear()
        shot = feed.shot or shot  # there may be a newer one by now
        page.sent_version, page.sent_at = shot.version, time.monotonic()
        await page.websocket.send_bytes(frame_message(shot, round_trip_s=page.round_trip_s))
        now = time.monotonic()
        if now - page.timeline_at >= TIMELINE_EVERY_S or not shot.header["playing"]:
            page.timeline_at = now
            await page.websocket.send_text(await timeline.message(shot))


def _listen(config: ViewConfig) -> socket.socket:
    """Return a listening socket."""
    is_ipv6 = ":" in config.host
    ports = range(config.port, min(config.port + 1000, 65535) + 1)
    for port in ports:
        try:
            listening = socket.create_server(
                (config.host, port),
                family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
                dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            if port == config.port and error.errno != errno.EADDRINUSE:
                raise HaustraError(
                    f"{option('host', config.host)}: {error.strerror or error}; expected an "
                    "address of this machine"
                ) from None
            continue
        if port == config.port:
            return listening
        listening.close()
        raise HaustraError(
            f"{option('port', config.port)} is taken; {option('port', port)} is free"
        )
    raise HaustraError(
        f"{option('port', config.port)} and the ports up to {ports[-1]} are taken; expected another"
    )


def open_access(config: ViewConfig, listening: socket.socket) -> tuple[Access, str]:
    """Return who may open the page, and the URL to open it at."""
    ip = ip_address(listening.getsockname()[0])
    names, host = {plain_name(config.host), *LOOPBACK}, config.host
    if ip.is_unspecified:
        own_name = socket.gethostname()
        names.add(own_name.lower())
        with suppress(OSError):
            names |= {str(entry[4][0]) for entry in socket.getaddrinfo(own_name, None)}
        host = "127.0.0.1" if ip.version == 4 or socket.has_dualstack_ipv6() else "::1"
    public = tuple(filter(None, map(Address.parse, config.allow_host)))
    is_open = config.host in LOOPBACK and not public and not config.root_path
    token = None if is_open else secrets.token_urlsafe(24)
    own = Address(scheme="http", name=host, port=config.port)
    is_proxied = config.host in LOOPBACK or bool(config.root_path)
    opened = public[0].completed(own, is_proxied=is_proxied) if public else own
    access = Access(names=frozenset(names), public=public, root_path=config.root_path, token=token)
    return access, opened.url(f"{config.root_path}/{f'?token={token}' if token else ''}")


def build_feed(config: ViewConfig) -> Feed:
    """Open detectors and source."""
    detectors = open_detectors(config)
    source = open_source(config.source, size_px=config.size)
    for detector in detectors:
        detector.field_of_view = FieldOfView(is_cropped=source.is_cropped)
    feed = Feed(
        source,
        detectors,
        point=operating_point(config, detectors[0].detector, in_time_order=source.in_time_order),
        recordings=config.output_root or DEFAULT_RECORDINGS,
    )
    if config.record:
        feed.command({"do": "record", "on": True})
    return feed


def serve(
    config: ViewConfig,
    *,
    print_line: Callable[[str], Any],
    build: Callable[[ViewConfig], Feed] = build_feed,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        print_line: Receives the lines for the user.
        build: Opens the feed, once the port is known to be free.

    Raises:
        HaustraError: Weights or source do not open, the port is taken, or the training is not one.
        MissingExtraError: A package is not installed.
        KeyboardInterrupt: The user ended it.
    """
    if config.output_root or config.record:
        check_outputs(config, output_root=config.output_root or DEFAULT_RECORDINGS)
    training = TrainingFolder.beside(config)
    listening = _listen(config)
    limit_unread_time(listening)
    feed, (access, address) = build(config), open_access(config, listening)

    def started() -> None:
        if config.detector_weights is None:
            print_line(
                "no --detector-weights: a color and shape heuristic draws the boxes, not a trained "
                "detector"
            )
        caption = feed.detectors[0].detector.caption
        print_line(f"{caption} on {feed.source.name}: {address} (Ctrl-C ends)")
        has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if config.open_browser and (has_display or platform.system() != "Linux"):
            webbrowser.open(address)

    server = uvicorn.Server(
        uvicorn.Config(
            build_app(feed, access=access, training=training, started=started),
            http=TimedProtocol,
            log_level="error",
            access_log=False,
            server_header=False,
            ws_max_size=4 * MAX_BYTES,
            ws_per_message_deflate=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16384,
            limit_concurrency=200,
        )
    )
    server.run(sockets=[listening])
