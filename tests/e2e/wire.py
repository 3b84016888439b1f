"""Requests as no well-behaved client sends them: bytes on a socket, and what the pods saw of them."""

import http.client
import socket
import uuid
from collections.abc import Iterable

from stack.client import Answer
from stack.pods import Pod

MARK = "x-test-mark"


def mark() -> str:
    return uuid.uuid4().hex


def fnv(data: bytes) -> str:
    """64-bit FNV-1a in hex, as pods show it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def seen(pods: Iterable[Pod], marked: str) -> list[dict]:
    """The requests with that mark, over all pods."""
    return [r for pod in pods for r in pod.requests() if r["headers"].get(MARK) == marked]


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: gateway", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def connect(url: str, timeout: float = 20) -> socket.socket:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout)


def read_answer(sock: socket.socket) -> Answer:
    with http.client.HTTPResponse(sock) as answer:
        answer.begin()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def exchange(url: str, *pieces: bytes) -> Answer:
    """Sends the pieces one after the other, and reads the answer."""
    with connect(url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        return read_answer(sock)
