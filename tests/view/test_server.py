"""The page's server: what it answers, whom it refuses, what it survives."""

import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from haustra.captures.reader import read_run
from haustra.captures.sources import open_source
from haustra.core.errors import HaustraError
from haustra.core.operating_point import OperatingPoint
from haustra.view.addresses import LOOPBACK, Address
from haustra.view.commands import parse_command
from haustra.view.config import ViewConfig
from haustra.view.feed import Feed
from haustra.view.guard import Access
from haustra.view.server import PAGES, STATIC, build_app, open_access, serve
from haustra.view.training_page import TrainingFolder
from viewing import Ticks, watched, write_pictures

HOST = "127.0.0.1:8765"
ACCESS = Access(names=frozenset(LOOPBACK), token=None)


@contextmanager
def client(
    tmp_path: Path, *, access: Access = ACCESS, training: Path | None = None
) -> Iterator[TestClient]:
    folder = tmp_path / "pictures"
    source = open_source(write_pictures(folder, 0.6, 0.7, 0.8))
    feed = Feed(source, [watched()], point=OperatingPoint(), recordings=tmp_path / "recordings")
    app = build_app(feed, access=access, training=TrainingFolder(folder=training))
    with TestClient(app, base_url=f"http://{HOST}") as opened:
        yield opened


def read_frame(data: bytes) -> tuple[dict[str, Any], bytes]:
    [length] = struct.unpack(">I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def next_frame(websocket: Any) -> dict[str, Any]:
    while True:
        message = websocket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(code=message["code"])
        if message.get("bytes"):
            header, jpeg = read_frame(message["bytes"])
            assert jpeg.startswith(b"\xff\xd8")
            websocket.send_text("ack")
            return header


def read_to_the_end(websocket: Any) -> None:
    while True:
        next_frame(websocket)


def test_pages_and_their_files_are_served_and_nothing_else(tmp_path: Path) -> None:
    with client(tmp_path) as page:
        for path in PAGES:
            answer = page.get(path)
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (
                200,
                "text/html",
            )
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        for file in STATIC.iterdir():
            assert page.get(f"/static/{file.name}").content == file.read_bytes()
        for path in (
            "/static/../server.py",
            "/static/%2e%2e/server.py",
            "/static/..%2fserver.py",
            "/static//etc/passwd",
            "/etc/passwd",
            "/000.png",
            "/training/../../x",
        ):
            assert page.get(path).status_code == 404, path
        assert page.post("/").status_code == 405


def test_everything_the_pages_load_is_our_own(tmp_path: Path) -> None:
    for file in STATIC.iterdir():
        text = file.read_text()
        assert "https://" not in text
        assert text.count("http://") == text.count('"http://www.w3.org/2000/svg"')


def test_a_page_gets_frames_and_the_timeline_and_commands_the_feed(tmp_path: Path) -> None:
    with client(tmp_path) as page, page.websocket_connect(f"ws://{HOST}/feed") as websocket:
        header = next_frame(websocket)
        assert header["kind"] == "frame"
        assert header["age_ms"] >= 0
        websocket.send_text(json.dumps({"do": "seek", "frame": 1}))
        websocket.send_text(json.dumps({"do": "pause"}))
        while header["frame"] != 1 or header["playing"]:
            header = next_frame(websocket)
        websocket.send_text(json.dumps({"do": "set", "objectness": 0.9}))
        while header["settings"]["objectness"] != 0.9:
            header = next_frame(websocket)
        assert header["detectors"][0]["boxes_px"] == []
        while (message := websocket.receive()).get("text") is None:
            pass
        timeline = json.loads(message["text"])
        assert (timeline["kind"], timeline["num_frames"]) == ("timeline", 3)


def test_a_second_page_shares_the_feed(tmp_path: Path) -> None:
    with (
        client(tmp_path) as page,
        page.websocket_connect(f"ws://{HOST}/feed") as first,
        page.websocket_connect(f"ws://{HOST}/feed") as second,
    ):
        first.send_text(json.dumps({"do": "seek", "frame": 2}))
        first.send_text(json.dumps({"do": "pause"}))
        for websocket in (first, second):
            header = next_frame(websocket)
            while header["frame"] != 2 or header["playing"]:
                header = next_frame(websocket)


def test_a_page_that_does_not_acknowledge_gets_one_frame(tmp_path: Path) -> None:
    with client(tmp_path) as page, page.websocket_connect(f"ws://{HOST}/feed") as websocket:
        while not websocket.receive().get("bytes"):
            pass
        for objectness in (0.1, 0.2, 0.3, 0.4):
            websocket.send_text(json.dumps({"do": "set", "objectness": objectness}))
            time.sleep(0.05)
        websocket.send_text("ack")
        header = next_frame(websocket)
        while header["settings"]["objectness"] != 0.4:
            header = next_frame(websocket)
        # One or two frames were sent, not one for each change.
        assert header["version"] >= 4


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": HOST}, 200),
        ({"host": "localhost:8765"}, 200),
        ({"host": "LOCALHOST:8765"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "localhost:9000"}, 200),  # ssh -L 9000:localhost:8765
        ({"host": "[::1]:80"}, 200),
        ({"host": "[0:0:0::1]:80"}, 200),
        ({"host": "localhost."}, 200),
        ({"host": "evil.example:8765"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example:8765"}, 403),
        ({"host": "192.168.1.2:8765"}, 403),
        ({"host": "http://localhost:8765"}, 403),
        ({"host": "127.0.0.1:8765@evil.example"}, 403),
        ({"host": "127.0.0.1:8765/x"}, 403),
        ({"host": "127.0.0.1:99999999"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": ""}, 403),
        ({"host": HOST, "origin": f"http://{HOST}"}, 200),
        ({"host": HOST, "origin": f"https://{HOST}"}, 200),  # behind a proxy that keeps the Host
        ({"host": "localhost:9000", "origin": "http://localhost:9000"}, 200),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"host": "localhost:80", "origin": "http://localhost"}, 200),
        ({"host": "localhost:443", "origin": "https://localhost"}, 200),
        ({"host": "[::1]:9000", "origin": "http://[::1]:9000"}, 200),
        ({"host": HOST, "origin": "http://localhost:3000"}, 403),  # another server of this machine
        ({"host": "localhost:8765", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:443", "origin": "http://localhost"}, 403),
        ({"host": HOST, "origin": "http://localhost:8765"}, 403),
        ({"host": HOST, "origin": HOST}, 403),
        ({"host": HOST, "origin": f"ftp://{HOST}"}, 403),
        ({"host": HOST, "origin": "http://evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"host": HOST, "origin": "null"}, 403),
        ({"host": HOST, "origin": ""}, 403),
    ],
)
def test_host_and_origin(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    check_answers(tmp_path, headers, status)


@pytest.mark.parametrize(
    ("allowed", "headers", "status"),
    [
        ("colon.example", {"host": "colon.example"}, 200),
        ("colon.example", {"host": "Colon.Example:8443"}, 200),
        ("Colon.Example.", {"host": "colon.example"}, 200),
        ("colon.example", {"host": "localhost:9000"}, 200),
        ("colon.example", {"host": "x.colon.example"}, 403),
        ("colon.example", {"host": "colon.example.evil.example"}, 403),
        ("darm-prüfung.example", {"host": "xn--darm-prfung-zhb.example"}, 200),
        ("[fd00:0::5]", {"host": "[fd00::5]:8765"}, 200),
        # A proxy keeps the Host, removes its port, or replaces it.
        ("colon.example", {"host": "colon.example", "origin": "https://colon.example"}, 200),
        ("colon.example", {"host": "colon.example:9", "origin": "http://colon.example:9"}, 200),
        ("colon.example:9", {"host": "colon.example", "origin": "https://colon.example:9"}, 200),
        ("colon.example", {"host": HOST, "origin": "https://colon.example"}, 200),
        ("colon.example", {"host": HOST, "origin": "http://colon.example"}, 200),
        ("https://colon.example", {"host": HOST, "origin": "https://colon.example"}, 200),
        ("https://colon.example:443", {"host": HOST, "origin": "https://colon.example"}, 200),
        # Another page.
        ("https://colon.example", {"host": HOST, "origin": "http://colon.example"}, 403),
        ("colon.example", {"host": HOST, "origin": "https://colon.example:8443"}, 403),
        ("colon.example", {"host": "colon.example", "origin": "http://colon.example:9"}, 403),
        ("colon.example", {"host": "colon.example", "origin": "https://evil.example"}, 403),
        ("colon.example", {"host": "evil.example", "origin": "https://colon.example"}, 403),
        ("colon.example", {"host": "colon.example", "origin": "null"}, 403),
    ],
)
def test_an_allowed_host(
    tmp_path: Path, allowed: str, headers: dict[str, str], status: int
) -> None:
    address = Address.parse(ViewConfig(allow_host=(allowed,)).allow_host[0])
    assert address
    access = Access(names=frozenset(LOOPBACK), public=(address,), token=None)
    check_answers(tmp_path, headers, status, access=access)


def check_answers(
    tmp_path: Path, headers: dict[str, str], status: int, *, access: Access = ACCESS
) -> None:
    with client(tmp_path, access=access) as page:
        assert page.get("/", headers=headers).status_code == status
        if status == 200:
            with page.websocket_connect(f"ws://{HOST}/feed", headers=headers) as websocket:
                next_frame(websocket)
        else:
            with (
                pytest.raises(WebSocketDisconnect) as refused,
                page.websocket_connect(f"ws://{HOST}/feed", headers=headers),
            ):
                pass
            assert refused.value.code == 1008


def test_beyond_loopback_the_token_is_required(tmp_path: Path) -> None:
    access = Access(names=frozenset({"127.0.0.1"}), token="secret")
    with client(tmp_path, access=access) as page:
        for path in ("/", "/static/view.js", "/training/values", "/?token=wrong", "/?token="):
            assert page.get(path).status_code == 403, path
        assert page.get("/", headers={"cookie": "haustra_token=wrong"}).status_code == 403
        with pytest.raises(WebSocketDisconnect), page.websocket_connect(f"ws://{HOST}/feed"):
            pass
        answer = page.get("/?token=secret")
        assert answer.status_code == 200
        assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
        assert page.get("/static/view.js").status_code == 200  # by the cookie
        with page.websocket_connect(f"ws://{HOST}/feed?token=secret") as websocket:
            next_frame(websocket)


@pytest.mark.parametrize("sent", ["/haustra", "", "/"])
@pytest.mark.parametrize("root_path", ["/haustra", "/haustra/", "/tools/haustra"])
def test_a_prefix_may_be_removed_on_the_way_or_not(
    tmp_path: Path, root_path: str, sent: str
) -> None:
    root = ViewConfig(root_path=root_path).root_path
    access = Access(names=frozenset({"127.0.0.1"}), root_path=root, token="secret")
    sent = sent.replace("/haustra", root)
    with client(tmp_path, access=access) as page:
        answer = page.get(f"{sent}/?token=secret")
        assert f'<base href="{root}/">' in answer.text
        assert answer.headers["set-cookie"].endswith(f"; Path={root}")
        for path in ("/training", "/static/view.js", "/training/values"):
            assert page.get(f"http://{HOST}{sent}{path}?token=secret").status_code == 200
        assert page.get(f"{root}x/training?token=secret").status_code == 404
        with page.websocket_connect(f"ws://{HOST}{sent}/feed?token=secret") as websocket:
            next_frame(websocket)
        page.cookies.clear()
        with pytest.raises(WebSocketDisconnect), page.websocket_connect(f"ws://{HOST}{sent}/feed"):
            pass


@pytest.mark.parametrize(
    ("host", "values", "expected"),
    [
        ("127.0.0.1", {}, "http://127.0.0.1:{port}/"),
        ("localhost", {}, "http://localhost:{port}/"),
        ("::1", {}, "http://[::1]:{port}/"),
        ("0.0.0.0", {}, "http://127.0.0.1:{port}/?token={token}"),
        ("0", {}, "http://127.0.0.1:{port}/?token={token}"),
        ("::", {}, "http://127.0.0.1:{port}/?token={token}"),
        ("127.0.0.1", {"root_path": "/haustra"}, "http://127.0.0.1:{port}/haustra/?token={token}"),
        ("127.0.0.1", {"allow_host": ["colon.example"]}, "https://colon.example/?token={token}"),
        ("::1", {"allow_host": ["a.example:8443", "b"]}, "https://a.example:8443/?token={token}"),
        ("127.0.0.1", {"allow_host": ["http://intra"]}, "http://intra/?token={token}"),
        ("127.0.0.1", {"allow_host": ["localhost:90"]}, "http://localhost:90/?token={token}"),
        ("0.0.0.0", {"allow_host": ["lab-pc"]}, "http://lab-pc:{port}/?token={token}"),
        ("0.0.0.0", {"allow_host": ["[fd00::5]:90"]}, "http://[fd00::5]:90/?token={token}"),
        (
            "0.0.0.0",
            {"allow_host": ["colon.example"], "root_path": "/haustra"},
            "https://colon.example/haustra/?token={token}",
        ),
    ],
)
def test_the_printed_address(host: str, values: dict[str, Any], expected: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        config = ViewConfig(host=host, port=port, **values)
        access, address = open_access(config, listening)
    assert address == expected.format(port=port, token=access.token)
    assert (access.token is None) == ("{token}" not in expected)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


GOOD = [
    {"do": "play"},
    {"do": "step", "by": -1},
    {"do": "seek", "frame": 3},
    {"do": "find", "verdict": "miss"},
    {"do": "find", "verdict": "false", "backward": True},
    {"do": "set", "objectness": 0.5, "hysteresis": None},
    {"do": "drive", "ahead": 1.0},
    {"do": "record", "on": True},
]


@pytest.mark.parametrize("command", GOOD)
def test_a_valid_command_is_parsed(command: dict[str, Any]) -> None:
    assert parse_command(json.dumps(command)) == command


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        b"\xff\xfe",
        "[" * 4000,
        "1" * 5000,
        '{"do": "stop"}',
        '{"do": "_run"}',
        '{"do": "seek", "frame": -1}',
        '{"do": "seek", "frame": "3"}',
        '{"do": "seek", "frame": 1e99}',
        '{"do": "seek"}',
        '{"do": "set", "objectness": 2}',
        '{"do": "set", "objectness": NaN}',
        '{"do": "set", "objectness": null}',
        '{"do": "set", "fitted": {}}',
        '{"do": "drive", "ahead": 1e9}',
        '{"do": "record", "on": "yes"}',
        '{"do": "play", "path": "/etc/passwd"}',
    ],
)
def test_anything_else_is_refused(text: str | bytes) -> None:
    assert parse_command(text) is None


def test_a_page_that_sends_malformed_messages_is_closed_and_the_others_stay(tmp_path: Path) -> None:
    with client(tmp_path) as page, page.websocket_connect(f"ws://{HOST}/feed") as good:
        next_frame(good)
        with page.websocket_connect(f"ws://{HOST}/feed") as bad:
            for _ in range(25):
                bad.send_text('{"do": "nothing"}')
            with pytest.raises(WebSocketDisconnect) as closed:
                read_to_the_end(bad)
            assert closed.value.code == 1008
        good.send_text(json.dumps({"do": "set", "objectness": 0.42}))
        while next_frame(good)["settings"]["objectness"] != 0.42:
            pass


def test_the_training_page_follows_a_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tinydet.bin.run"
    with client(tmp_path, training=folder) as page:
        assert page.get("/training/values").json() == {
            "folder": "tinydet.bin.run",
            "exists": False,
            "epochs": [],
            "num_epochs": None,
            "seconds_ago": None,
            "gallery": None,
        }
        assert page.get("/training/gallery").status_code == 404
        folder.mkdir()
        (folder / "config.json").write_text('{"epochs": 9}')
        (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "lo')
        (folder / "gallery.png").write_bytes(b"picture")
        values = page.get("/training/values").json()
        assert values["epochs"] == [{"epoch": 1, "loss": 2.0}]
        assert values["num_epochs"] == 9
        assert values["seconds_ago"] >= 0
        assert values["gallery"] == (folder / "gallery.png").stat().st_mtime_ns
        assert page.get("/training/gallery").content == b"picture"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "it does not exist"),
        ("a.bin", "it is a file; did you mean {}/a.bin.run?"),
        ("lone.bin", "it is a file"),
        (
            "empty",
            "it holds no settings of a training (config.json)",
        ),
        (".", "it holds no settings of a training (config.json); did you mean {}/a.bin.run?"),
        (
            "other",
            "it holds no settings of a training (config.json)",
        ),
    ],
)
def test_a_folder_that_is_no_training_is_refused_in_one_line(
    tmp_path: Path, name: str, problem: str
) -> None:
    for folder in ("a.bin.run", "empty", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a.bin").write_text("weights")
    (tmp_path / "lone.bin").write_text("weights")
    (tmp_path / "a.bin.run" / "config.json").write_text('{"epochs": 9}')
    (tmp_path / "other" / "config.json").write_text('["epochs"]')
    source = str(write_pictures(tmp_path / "p", 0.6))
    with pytest.raises(HaustraError) as error:
        serve(ViewConfig(source=source, training=tmp_path / name), print_line=print)
    assert error.value.for_command_line() == (
        f"--training {tmp_path / name}: expected the run folder of a training, such as "
        "checkpoints/tinydet.bin.run; "
        + problem.format(tmp_path / name if name == "." else tmp_path)
    )


def test_a_taken_port_names_the_next_free_one(tmp_path: Path) -> None:
    source = str(write_pictures(tmp_path / "p", 0.6))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65000:
            pytest.skip("no room above this port")
        with pytest.raises(HaustraError) as error:
            serve(ViewConfig(source=source, port=port), print_line=print)
    found = re.fullmatch(
        r"--port (\d+) is taken; --port (\d+) is free", error.value.for_command_line()
    )
    assert found
    assert int(found[1]) == port < int(found[2])


def test_ctrl_c_ends_it_at_once_and_finishes_a_recording(tmp_path: Path) -> None:
    source = str(write_pictures(tmp_path / "p", *[0.6] * 5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "haustra", "view", "--source", source, "--port", str(port)]
    command += ["--record", "--output-root", str(tmp_path / "seen")]
    with subprocess.Popen(
        [*command, "--no-open-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "heuristic" in process.stdout.readline()
        assert f"http://127.0.0.1:{port}/ (Ctrl-C ends)" in process.stdout.readline()
        process.send_signal(2)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.startswith("haustra: interrupted")
    assert errors.count("\n") == 1
    [folder] = (tmp_path / "seen").iterdir()  # the recording is complete
    assert (read_run(folder).manifest.num_frames or 0) >= 1


def test_live_sources_are_closed_with_the_server(tmp_path: Path) -> None:
    source = Ticks()
    feed = Feed(source, [watched()], point=OperatingPoint(), recordings=tmp_path)
    app = build_app(feed, access=ACCESS, training=TrainingFolder(folder=None))
    with TestClient(app, base_url=f"http://{HOST}"):
        pass
    assert source.is_closed.is_set()
