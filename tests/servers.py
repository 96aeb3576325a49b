"""Servers on loopback for tests: S3 with a warehouse on it, and a line to it that fails."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "colons"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server with an empty bucket; yield its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        s3_client(url).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.stop()


def s3_client(url: str):  # type: ignore[no-untyped-def] # boto3 makes its classes as it runs
    """Return a client of the server at `url`; environment variables hold the credentials."""
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1")


def upload_folder(url: str, folder: Path, *, prefix: str) -> None:
    """Put all files below `folder` into the bucket."""
    client = s3_client(url)
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.upload_file(str(path), BUCKET, key)


class FailingLine:
    """Passes bytes on to a server, and cuts or slows down the connections that chance picks."""

    def __init__(
        self, server_url: str, *, fault: Literal["cut", "slow"], share: float, seed: int
    ) -> None:
        host, port = server_url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._fault, self._share = fault, share
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_faults = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further connection."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, target, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target), kwargs={"answers": answers}
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, *, answers: bool) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(8192):
                if answers and self._random.random() < self._share:
                    self.num_faults += 1
                    if self._fault == "cut":
                        target.sendall(data[: len(data) // 2])
                        break
                    time.sleep(0.05)
                target.sendall(data)
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
