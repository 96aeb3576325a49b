"""2,000 hostile requests: the server goes on serving, and reads only its source."""

import json
import random
import re
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.sync.client import connect

from viewing import free_port, until, write_pictures

SECRET = "the-patient's-name"
WATCHED_SERVER = """
import os, sys
from haustra.cli.main import main
import haustra.view.connections
haustra.view.connections.MAX_REQUEST_S = 1.0
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.remove", "os.rename"):
        os.write(log, f"{event} {arguments[0]!r}\\n".encode())
sys.addaudithook(hook)
main(sys.argv[2:])
"""
NUM_REQUESTS = 2000
NUM_HALF_OPEN = 220  # more than the server accepts at one time

Answer = bytes
Attack = Callable[[random.Random, int], Answer]


def ask(port: int, data: bytes) -> Answer:
    """Send bytes, and return the answer until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.settimeout(0.1)
        answer = b""
        with suppress(OSError):  # it may close the connection at any time
            line.sendall(data)
            while part := line.recv(65536):
                answer += part
                line.settimeout(0.01)
        return answer


def request(
    port: int,
    target: bytes,
    *headers: bytes,
    method: bytes = b"GET",
    host: bytes | None = None,
    body: bytes = b"",
) -> Answer:
    own = b"127.0.0.1:%d" % port if host is None else host
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + own, b"Connection: close", *headers]
    return ask(port, b"\r\n".join(lines) + b"\r\n\r\n" + body)


def one_of(rng: random.Random, *choices: Callable[[], bytes]) -> bytes:
    return rng.choice(choices)()


def some_bytes(rng: random.Random, most: int = 200) -> bytes:
    return rng.randbytes(rng.randint(1, most))


def attack_paths(rng: random.Random, port: int) -> Answer:
    up = rng.choice([b"../", b"..%2f", b"%2e%2e/", b"..\\", b"%252e%252e%252f", b"....//", b"..;/"])
    start = rng.choice([b"/", b"/static/", b"/static//", b"/training/", b"//", b"/static/%00"])
    end = rng.choice(
        [b"etc/passwd", b"secret.txt", b"pictures/000.png", b"proc/self/environ", b"server.py"]
    )
    target = rng.choice(
        [
            start + up * rng.randint(0, 12) + end,
            start + end + rng.choice([b"%00.js", b"?x=" + b"a" * 5000, b"#/../..", b"/."]),
            b"http://evil.example/" + end,
            b"/static/" + b"%" * rng.randint(1, 9),
            b"/" + some_bytes(rng).replace(b"\n", b"").replace(b" ", b""),
        ]
    )
    return request(port, target)


def attack_hosts_and_origins(rng: random.Random, port: int) -> Answer:
    ours = b"127.0.0.1:%d" % port
    foreign = rng.choice([b"evil.example", b"localhost.evil.example:%d" % port, ours + b"@evil"])
    target = rng.choice([b"/", b"/feed", b"/static/view.js", b"/training/values"])
    return one_of(
        rng,
        lambda: request(port, target, host=foreign),
        lambda: request(port, target, host=b""),
        lambda: request(port, target, host=some_bytes(rng, 30).replace(b"\n", b"")),
        lambda: request(port, target, b"Host: evil.example"),
        lambda: request(port, target, b"Origin: http://" + foreign),
        lambda: request(port, target, b"Origin: null"),
        lambda: request(port, target, b"Origin: http://" + ours, b"Origin: http://evil.example"),
    )


def attack_http(rng: random.Random, port: int) -> Answer:
    return one_of(
        rng,
        lambda: ask(port, some_bytes(rng, 3000)),
        lambda: ask(port, b"GET / HTTP/9.9\r\n\r\n"),
        lambda: ask(port, b"\x16\x03\x01" + some_bytes(rng)),  # TLS
        lambda: ask(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        lambda: request(port, b"/", b"X: " + b"a" * 100_000),
        lambda: request(port, b"/", *[b"X-%d: y" % n for n in range(2000)]),
        lambda: request(port, b"/", b"Content-Length: 99999999999", body=b"x" * 100),
        lambda: request(port, b"/", b"Content-Length: -1"),
        lambda: request(port, b"/", b"Transfer-Encoding: chunked", body=b"zz\r\n"),
        lambda: request(port, b"/", method=rng.choice([b"POST", b"PUT", b"DELETE", b"TRACE"])),
        lambda: request(port, b"evil.example:443", method=b"CONNECT"),
    )


HANDSHAKE = (b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")


def attack_handshakes(rng: random.Random, port: int) -> Answer:
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    lines = [b"GET /feed HTTP/1.1", b"Host: 127.0.0.1:%d" % port, b"Connection: Upgrade"]
    wrong = rng.choice(
        [
            [*HANDSHAKE, b"Sec-WebSocket-Key: short"],
            [b"Upgrade: websocket", b"Sec-WebSocket-Version: 999", key],
            [*HANDSHAKE, key, b"Origin: http://evil.example"],
            [*HANDSHAKE, key, key],
            [b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
            [*HANDSHAKE, key, b"Sec-WebSocket-Extensions: " + b"permessage-deflate;" * 99],
        ]
    )
    lines[0] = rng.choice([lines[0], b"GET /static/view.js HTTP/1.1", b"GET /nowhere HTTP/1.1"])
    return ask(port, b"\r\n".join([*lines, *wrong]) + b"\r\n\r\n")


def frame(opcode: int, data: bytes, *, is_last: bool = True, is_masked: bool = True) -> bytes:
    """Return a websocket frame, masked with zeros."""
    first = (0x80 if is_last else 0) | opcode
    mask = 0x80 if is_masked else 0
    if len(data) < 126:
        head = struct.pack("!BB", first, mask | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", first, mask | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, mask | 127, len(data))
    return head + (b"\0\0\0\0" if is_masked else b"") + data


def attack_messages(rng: random.Random, port: int) -> Answer:
    lines = [b"GET /feed HTTP/1.1", b"Host: 127.0.0.1:%d" % port, b"Connection: Upgrade"]
    lines += [*HANDSHAKE, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    says = one_of(
        rng,
        lambda: frame(1, b"x" * rng.choice([5000, 20_000, 2_000_000])),
        lambda: frame(2, some_bytes(rng, 4000)),
        lambda: frame(1, b"\xff\xfe" + some_bytes(rng)),
        lambda: frame(1, b"[" * 4000),
        lambda: frame(1, json.dumps({"do": "seek", "frame": 10**30}).encode()),
        lambda: frame(1, json.dumps({"do": "set", "objectness": "NaN"}).encode()),
        lambda: frame(1, json.dumps({"do": "record", "on": True, "path": "/etc"}).encode()),
        lambda: frame(1, b'{"do": "_run"}') * 60,
        lambda: frame(1, json.dumps({"do": "step", "by": 1}).encode()) * 200,
        lambda: frame(1, b"ack") * 500,
        lambda: frame(9, b"") * 200,
        lambda: frame(1, b"unmasked", is_masked=False),
        lambda: frame(rng.choice([3, 5, 7, 11]), b"reserved"),
        lambda: frame(1, b"never ended", is_last=False),
        lambda: frame(0, b"continues nothing"),
        lambda: frame(9, b"a ping that is too long" * 9),
        lambda: frame(8, rng.choice([b"\0", b"\3\xed", struct.pack("!H", 65000)])),
        lambda: struct.pack("!BBQ", 0x81, 0xFF, 2**62),
        lambda: some_bytes(rng, 2000),
    )
    return ask(port, b"\r\n".join(lines) + b"\r\n\r\n" + says)


ATTACKS: tuple[Attack, ...] = (
    attack_paths,
    attack_hosts_and_origins,
    attack_http,
    attack_handshakes,
    attack_messages,
)


def half_open(rng: random.Random, port: int) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=5)
    begun = rng.choice([b"", b"G", b"GET / HTTP/1.1\r\nHost: 127", b"GET /feed HTTP/1.1\r\n"])
    line.sendall(begun)
    return line


@contextmanager
def watched_server(tmp_path: Path) -> Iterator[tuple[int, Path, "subprocess.Popen[str]"]]:
    """Serve a folder of pictures; yield the port, the log of opened files, and the process."""
    pictures = write_pictures(tmp_path / "pictures", *[0.6] * 40)
    (tmp_path / "secret.txt").write_text(SECRET)
    port, log = free_port(), tmp_path / "opened.log"
    command = [sys.executable, "-c", WATCHED_SERVER, str(log), "view", "--no-open-browser"]
    command += ["--source", str(pictures), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert "Ctrl-C ends" in process.stdout.readline()
            with connect(f"ws://127.0.0.1:{port}/feed") as page:
                while not isinstance(page.recv(), bytes):  # until the first frame
                    pass
            log.write_text("")  # files that it opens at the start
            yield port, log, process
        finally:
            process.kill()


def is_serving(port: int) -> bool:
    return b"HTTP/1.1 200" in request(port, b"/")


@pytest.mark.slow
def test_it_goes_on_serving_and_reads_nothing_but_its_source(tmp_path: Path) -> None:
    rng = random.Random(7)
    statuses: Counter[str] = Counter()
    with watched_server(tmp_path) as (port, log, process):
        for number in range(NUM_REQUESTS):
            attack = ATTACKS[number % len(ATTACKS)]
            answer = attack(rng, port)
            assert SECRET.encode() not in answer
            assert b"root:" not in answer
            found = re.match(rb"HTTP/1.1 (\d{3})", answer)
            statuses[found[1].decode() if found else "none"] += 1
        until(lambda: is_serving(port))

        held = [half_open(rng, port) for _ in range(NUM_HALF_OPEN)]
        until(lambda: is_serving(port))  # connections without a request are closed
        until(lambda: all(map(is_cut, held)))
        for line in held:
            line.close()

        with connect(f"ws://127.0.0.1:{port}/feed") as page:
            page.send(json.dumps({"do": "set", "objectness": 0.42}))
            message: str | bytes = ""
            while not (isinstance(message, bytes) and b'"objectness": 0.42' in message):
                message = page.recv(timeout=20)
                page.send("ack")
        opened = log.read_text().splitlines()
        process.send_signal(2)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.count("\n") == 1, errors
    assert set(statuses) <= {"101", "200", "400", "403", "404", "405", "413", "426", "431", "none"}
    assert min(statuses[name] for name in ("101", "400", "403", "404", "405")) >= 20, statuses
    source = str(tmp_path / "pictures")
    assert [line for line in opened if not line.startswith(f"open '{source}/")] == []


def is_cut(line: socket.socket) -> bool:
    line.settimeout(0.01)
    try:
        return line.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
