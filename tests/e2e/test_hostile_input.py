"""What is meant to break the gateway reaches a pod as it came, or gets what plain Envoy gives for it, and harms nobody else."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from stack.client import Client, chat_body
from stack.envoy import Envoy, assert_sound
from stack.pods import Pod
from stack.process import wait_for
from stack.sidecar import Sidecar
from wire import MARK, connect, exchange, fnv, head, mark, read_answer, seen

CHAT = "/v1/chat/completions"


def chat_with(messages: str, more: str = "") -> bytes:
    return f'{{"model": "sim", "max_tokens": 2{more}, "messages": [{messages}]}}'.encode()


def chat_of(text: str, more: str = "") -> bytes:
    """`text` as it stands in JSON."""
    return chat_with(f'{{"role": "user", "content": "{text}"}}', more)


# All of them JSON, and below what either wiring holds.
LARGE = {
    "25,000 messages": chat_with(",".join(['{"role":"user","content":"a"}'] * 25_000)),
    "300,000 backslashes in a row": chat_of("\\" * 300_000),
    "150,000 quotes": chat_of('\\"' * 150_000),
    "50,000 escaped zeros": chat_of("\\u0000" * 50_000),
    "50,000 halves of characters": chat_of("\\ud83d" * 50_000),
    "a key of 500 KB": chat_of("hello", f', "{"k" * 500_000}": 1'),
    "a name of 500 KB": chat_of("hello", f', "user": "{"m" * 500_000}"'),
    "a number of 500 KB": chat_of("hello", f', "seed": {"9" * 500_000}'),
    "40,000 members": chat_of("hello", "".join(f', "m{n}": {n}' for n in range(40_000))),
    "40,000 tools": chat_of("hello", ', "tools": [' + ",".join(['{"type":"f"}'] * 40_000) + "]"),
}
ESCAPED_NAME = rb'{"m\u006fdel": "sim", "max_tokens": 2, "\u006dessages": [{"role": "user", "content": "%s"}]}'


def assert_all_workers_steer(client: Client, fresh) -> None:
    text = fresh(100)
    assert len({client.chat(text).pod for _ in range(12)}) == 1


def resident_mb(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("name", LARGE)
def test_a_large_body_of_small_things_reaches_a_pod_unchanged(stack, client, fresh, name):
    body, marked = LARGE[name], mark()
    answer = client.post(CHAT, body, {MARK: marked})
    assert answer.status < 500
    [request] = seen(stack.pods, marked)
    assert (request["body_bytes"], request["body_sha"]) == (len(body), fnv(body))
    # It was read: equal ones meet.
    assert answer.headers["x-warmpath-reason"] != "load_only"
    assert client.post(CHAT, body).pod == request_pod(stack, marked)
    assert_all_workers_steer(client, fresh)


def request_pod(stack, marked: str) -> str:
    [pod] = [pod.address for pod in stack.pods if seen([pod], marked)]
    return pod


def test_an_escaped_name_of_a_member_is_that_member(stack, client, fresh):
    text = fresh(100)
    plain = client.chat(text)
    again = client.post(CHAT, ESCAPED_NAME % text.encode())
    assert (again.reason, again.pod) == ("warm", plain.pod)


def test_slow_bodies_hold_up_nobody(stack, client, fresh):
    body = json.dumps(chat_body(fresh(100))).encode()
    text = fresh(100)
    home = client.chat(text).pod
    with ExitStack() as ends:
        slow = [ends.enter_context(connect(stack.envoy.url)) for _ in range(60)]
        for one in slow:
            one.sendall(head("POST", CHAT, f"content-length: {len(body)}", "content-type: application/json"))
        for at in range(20):
            for one in slow:
                one.sendall(body[at : at + 1])
            answer = client.chat(text)
            assert (answer.pod, answer.reason) == (home, "warm")
        for one in slow[:30]:
            one.sendall(body[20:])
        assert {read_answer(one).status for one in slow[:30]} == {200}
    wait_for("nothing in flight", lambda: stack.envoy.stats()["in_flight"] == 0)
    assert_all_workers_steer(client, fresh)


def test_as_many_headers_as_envoy_takes_are_taken(stack, client, fresh):
    text = fresh(100)
    home = client.chat(text).pod
    answer = client.chat(text, {f"x-bomb-{n}": "b" * 600 for n in range(85)})
    assert (answer.status, answer.pod, answer.reason) == (200, home, "warm")


@pytest.mark.parametrize(("many", "long"), [(20_000, 2), (5, 100_000)], ids=["many", "long"])
def test_more_headers_than_envoy_takes_get_431(stack, client, fresh, many, long):
    lines = [f"x-bomb-{n}: {'b' * long}" for n in range(many)]
    with connect(stack.envoy.url) as sock:
        with suppress(ConnectionError):
            sock.sendall(head("POST", CHAT, "content-length: 2", *lines) + b"{}")
        with suppress(ConnectionError):
            assert read_answer(sock).status == 431
    assert_all_workers_steer(client, fresh)


def test_a_destination_named_fifty_times_is_removed_fifty_times(stack, client, fresh):
    text, marked = fresh(100), mark()
    home = client.chat(text).pod
    [other, *_] = [pod.address for pod in stack.pods if pod.address != home]
    body = json.dumps(chat_body(text)).encode()
    lines = [f"X-Gateway-Destination-Endpoint: {other}"] * 50
    answer = exchange(stack.envoy.url, head("POST", CHAT, f"{MARK}: {marked}", *lines, f"content-length: {len(body)}"), body)
    assert (answer.status, answer.pod) == (200, home)


LYING = {
    "too short": (["content-length: 20"], 400),
    "two lengths": (["content-length: 20", "content-length: 200"], 400),
    "negative": (["content-length: -1"], 400),
    "a length and chunks": (["content-length: 20", "transfer-encoding: chunked"], 400),
    "an unknown transfer coding": (["transfer-encoding: gzip, chunked"], 501),
}


@pytest.mark.parametrize("name", LYING)
def test_a_length_that_lies_smuggles_nothing(stack, client, fresh, name):
    lines, refused = LYING[name]
    body, marked = json.dumps(chat_body(fresh(30))).encode(), mark()
    smuggled = head("POST", CHAT, f"{MARK}: {marked}", f"content-length: {len(body)}") + body
    with connect(stack.envoy.url) as sock:
        sock.sendall(head("POST", CHAT, *lines) + b"0" * 20 + b"\r\n\r\nnot a request" + smuggled)
        with suppress(ConnectionError):
            statuses = [read_answer(sock).status]
            if name == "too short":
                # The first is a request of 20 bytes, and no JSON; what follows is none.
                assert statuses == [400]
                statuses.append(read_answer(sock).status)
            assert statuses[-1] == refused
    assert seen(stack.pods, marked) == []
    assert_all_workers_steer(client, fresh)


def test_a_length_that_is_never_reached_leaves_nothing_behind(stack, client, fresh):
    with ExitStack() as ends:
        for _ in range(20):
            sock = ends.enter_context(connect(stack.envoy.url))
            sock.sendall(head("POST", CHAT, "content-length: 800000") + json.dumps(chat_body(fresh(30))).encode())
        assert_all_workers_steer(client, fresh)
    wait_for("nothing in flight", lambda: stack.envoy.stats()["in_flight"] == 0)


def test_names_that_clients_make_up_leave_nothing_that_grows(stack, client, fresh):
    def ask(many: int) -> None:
        for n in range(many):
            name = fresh(0)
            client.post(CHAT, chat_body(f"hello {n}", model=name, cache_salt=name, user=name), {"x-made-up": name})

    def stat_names() -> set[str]:
        return {line.partition(": ")[0] for line in stack.envoy.get("/stats").splitlines()}

    ask(200)
    before, memory = stat_names(), resident_mb(stack.envoy.process.pid)
    ask(1000)
    assert stat_names() == before
    # 1,000 prompts of a few boundaries are 0.2 MB; a copy of each request, or a stat for each name, would be more.
    assert resident_mb(stack.envoy.process.pid) - memory < 30


class LyingPod:
    """A pod that answers what it is told to, and with a good pod's metrics page."""

    def __init__(self, page_of: str):
        self.page_of, self.answer = page_of, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self.listener.accept()[:1], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with closing(sock), suppress(OSError, ValueError), sock.makefile("rb") as lines:
            method, path, _ = next(lines).split()
            length = 0
            for line in iter(lines.readline, b"\r\n"):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            lines.read(length)
            sock.sendall(self._page(path.decode()) if method == b"GET" else self.answer)
            sock.shutdown(socket.SHUT_WR)

    def _page(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.page_of}{path}", timeout=5) as page:
            body = page.read()
            kind = page.headers["content-type"]
        return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def stop(self) -> None:
        self.listener.close()


def whole(kind: str, body: bytes, *lines: str) -> bytes:
    start = ["HTTP/1.1 200 OK", f"content-type: {kind}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(start).encode() + body


JSON, EVENTS = "application/json", "text/event-stream"
USAGE = '{"usage": {"prompt_tokens": %s, "completion_tokens": %s, "prompt_tokens_details": {"cached_tokens": %s}}}'
ANSWERS = {
    "a line of 2 MB": whole(EVENTS, b"data: " + b"x" * 2_000_000),
    "2 MB of line ends": whole(EVENTS, b"\r\n" * 1_000_000),
    "an event of 2 MB": whole(EVENTS, b'data: {"choices": [{"delta": {"content": "' + b"y" * 2_000_000 + b'"}}]}\n\n'),
    "an event that breaks off": whole(EVENTS, b'data: {"choices": [{"delta": {"cont'),
    "events that are bytes": whole(EVENTS, bytes(range(256)) * 1000),
    "depth": whole(JSON, b'{"usage": ' * 50_000),
    "lists": whole(JSON, b"[" * 500_000),
    "usage that is negative": whole(JSON, (USAGE % ("-5", "-5", "-5")).encode()),
    "usage that is huge": whole(JSON, (USAGE % ("9" * 400, "1e999", "18446744073709551615")).encode()),
    "usage that is text": whole(JSON, (USAGE % ('"many"', "null", "[]")).encode()),
    "usage, 50,000 times": whole(JSON, b"[" + b",".join([(USAGE % (7, 7, 7)).encode()] * 50_000) + b"]"),
    "no gzip": whole(JSON, b"not compressed at all", "content-encoding: gzip"),
    "an unknown status": b"HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\n{}",
}
# What Envoy itself takes for no answer.
NO_ANSWER = {
    "no HTTP": b"\x16\x03\x01\x00 hello",
    "nothing": b"",
    "headers of 2 MB": b"HTTP/1.1 200 OK\r\n" + b"x-bomb: " + b"b" * 2_000_000 + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
def lying(wiring, tmp_path_factory) -> Iterator[tuple[LyingPod, Envoy]]:
    """A gateway in front of that pod alone."""
    folder = tmp_path_factory.mktemp(f"lying-{wiring}")
    with ExitStack() as ends:

        def ending(part):
            ends.callback(part.stop)
            return part

        page = ending(Pod(folder, "page", instant=True)).ready()
        pod = ending(LyingPod(page.address))
        sidecar = ending(Sidecar(folder, [pod.address])).ready()
        envoy = ending(Envoy(folder, wiring, [pod.address], sidecar.feed, {"debug_headers": True}))
        wait_for("the table", lambda: envoy.stats().get("endpoints_choosable") == 1)
        yield pod, envoy
        assert_sound(envoy)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_goes_on_as_it_came(lying, fresh, name):
    pod, envoy = lying
    pod.answer = ANSWERS[name]
    answer = Client(envoy.url).chat(fresh(30))
    assert answer.body == ANSWERS[name].partition(b"\r\n\r\n")[2]
    assert_usage_is_bounded(envoy)


@pytest.mark.parametrize("name", NO_ANSWER)
def test_no_answer_is_what_envoy_makes_of_it(lying, fresh, name):
    pod, envoy = lying
    pod.answer = NO_ANSWER[name]
    assert Client(envoy.url).chat(fresh(30)).status in (502, 503)
    assert_usage_is_bounded(envoy)


def test_an_answer_that_is_cut_is_cut_for_the_client(lying, fresh):
    pod, envoy = lying
    pod.answer = whole(JSON, b'{"id": "x"}' + b" " * 100)[:-50]
    body = json.dumps(chat_body(fresh(30))).encode()
    with connect(envoy.url) as sock:
        sock.sendall(head("POST", CHAT, f"content-length: {len(body)}") + body)
        got = b"".join(iter(lambda: sock.recv(65536), b""))
    assert got.endswith(b'{"id": "x"}' + b" " * 50)
    assert_usage_is_bounded(envoy)


def assert_usage_is_bounded(envoy) -> None:
    """Nothing is left of it, and what is learned from answers can be."""
    wait_for("nothing in flight", lambda: envoy.stats()["in_flight"] == 0)
    stats = envoy.stats()
    assert 100 <= stats["bytes_per_token_milli"] <= 100_000
    assert stats["true_prompt_tokens"] < 1 << 62


def test_an_endpoint_that_the_cluster_does_not_have_is_not_reached(wiring, start, fresh):
    """A sidecar can name whom it likes: Envoy sends only to hosts of its cluster."""
    known, stranger = [start.pod() for _ in range(2)], start.pod()
    sidecar = start.sidecar([stranger.address])
    envoy = start.envoy(wiring, [pod.address for pod in known], feed=sidecar.feed, config={"debug_headers": True})
    wait_for("the table", lambda: envoy.stats().get("endpoints_choosable") == 1)
    client = Client(envoy.url)
    answers = [client.chat(fresh(50)) for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["x-warmpath-choice"] for answer in answers} == {stranger.address}
    assert {answer.pod for answer in answers} == {pod.address for pod in known}
    assert [r for r in stranger.requests() if r["path"] == CHAT] == []
