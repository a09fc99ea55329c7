"""Servers on loopback: of the web, which counts what it gives, and of S3's protocol."""

from __future__ import annotations

from http.server import SimpleHTTPRequestHandler
from urllib.request import Request, urlopen

import pytest

CONTENT = b"weights" * 1000


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what it gives."""

    given: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.given.append(self.path)
        super().do_GET()

    def log_message(self, *words: object) -> None:
        pass


class S3:
    """A server of S3's protocol (moto) that can be stopped and started again; what it holds stays."""

    def __init__(self) -> None:
        self._port = 0
        self.start()
        urlopen(Request(f"{self.endpoint}/moto-api/reset", method="POST")).close()

    def start(self) -> None:
        moto = pytest.importorskip("moto.server")
        self._server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{self._port}"

    def stop(self) -> None:
        self._server.stop()
