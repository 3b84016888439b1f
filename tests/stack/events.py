"""The sidecar's /events, read as a page would read them."""

import http.client
import json
import threading
from collections.abc import Iterable, Iterator

from .process import wait_for


def messages(lines: Iterable[bytes]) -> Iterator[tuple[str, object]]:
    """Name and data of each message of a stream of server-sent events."""
    name = ""
    for line in lines:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


class Events:
    """An open page. `statuses` are what came as such, `requests` the events of requests in their order."""

    def __init__(self, http: str):
        self.connection = http_connection(http)
        self.connection.request("GET", "/events")
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.statuses: list[dict] = []
        self.requests: list[dict] = []
        self.raw = b""
        self.ended = threading.Event()
        if self.status == 200:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for name, data in messages(self._lines()):
                if name == "status":
                    self.statuses.append(data)
                else:
                    self.requests += data
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass
        self.ended.set()

    def _lines(self) -> Iterator[bytes]:
        while line := self.answer.readline():
            self.raw += line
            yield line

    def of(self, event: str) -> list[dict]:
        return [one for one in self.requests if one["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict]:
        return wait_for(f"{count} x {event}", lambda: len(self.of(event)) >= count and self.of(event))

    def stop(self) -> None:
        # Wakes the reader, which holds the answer.
        if self.connection.sock:
            self.connection.sock.close()
        self.connection.close()


def http_connection(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address, timeout=20)
