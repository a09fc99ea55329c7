"""A server of the web that counts what it gives."""

from __future__ import annotations

from http.server import SimpleHTTPRequestHandler

CONTENT = b"weights" * 1000


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what it gives."""

    given: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.given.append(self.path)
        super().do_GET()

    def log_message(self, *words: object) -> None:
        pass
