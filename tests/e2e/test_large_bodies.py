"""Large bodies stream where they can, and are limited only where that is said."""

import json

import pytest
from stack.client import Client, chat_body
from stack.envoy import BUFFER_LIMIT
from stack.process import wait_for
from wire import MARK, chunk, connect, head, mark, read_answer, seen

CHAT = "/v1/chat/completions"
THREE_MB = json.dumps(chat_body("three megabytes " * 190_000)).encode()
# What Envoy holds back itself: sockets' buffers and what waits for the pod.
HELD = 400_000


def cause(stack, name: str) -> int:
    return stack.envoy.stats()["load_only{cause=" + name + "}"]


def sent_to_pods(stack) -> int:
    return int(stack.envoy.get("/stats?filter=^cluster.pool.upstream_cx_tx_bytes_total$").rpartition(": ")[2])


def pieces(data: bytes) -> list[bytes]:
    return [data[i : i + 50_000] for i in range(0, len(data), 50_000)]


@pytest.mark.parametrize("wiring", ["streaming"], indirect=True)
def test_a_chunked_body_goes_on_to_the_pod_before_it_is_whole(stack):
    before = sent_to_pods(stack), cause(stack, "too_large"), stack.envoy.stats()["extended"]
    marked = mark()
    lines = [f"{MARK}: {marked}", "transfer-encoding: chunked", "content-type: application/json"]
    with connect(stack.envoy.url) as sock:
        sock.sendall(head("POST", CHAT, *lines))
        for piece in pieces(THREE_MB[:1_500_000]):
            sock.sendall(chunk(piece))
        wait_for("the pod to get the first half", lambda: sent_to_pods(stack) - before[0] > 1_500_000 - HELD)
        assert cause(stack, "too_large") == before[1] + 1
        for piece in pieces(THREE_MB[1_500_000:]):
            sock.sendall(chunk(piece))
        sock.sendall(b"0\r\n\r\n")
        answer = read_answer(sock)
    assert (answer.status, answer.reason) == (200, "load_only"), answer.body[:300]
    [request] = seen(stack.pods, marked)
    assert request["body_bytes"] == len(THREE_MB)
    assert stack.envoy.stats()["extended"] == before[2] + 1


def test_a_long_conversation_is_not_read_from_its_beginning_again(stack, client, fresh):
    """Each worker reads it from its beginning once."""
    said = "".join(fresh(100) for _ in range(500))
    assert len(said) > 128 * 1024
    resumed = stack.envoy.stats()["bytes_resumed"]
    answers = [client.chat(said + fresh(10)) for _ in range(8)]
    assert [a.reason for a in answers] == ["cold"] + ["warm"] * 7
    assert min(a.cached / a.json()["usage"]["prompt_tokens"] for a in answers[1:]) > 0.9
    wait_for("the stat", lambda: stack.envoy.stats()["bytes_resumed"] - resumed >= 6 * 96 * 1024)


@pytest.mark.parametrize("wiring", ["streaming"], indirect=True)
def test_large_bodies_are_never_too_large(stack):
    """However Envoy cuts them: what is held back and the next read together may pass the connection's limit."""
    statuses = []
    for _ in range(12):
        with connect(stack.envoy.url) as sock:
            sock.sendall(head("POST", CHAT, f"content-length: {len(THREE_MB)}"))
            try:
                sock.sendall(THREE_MB)
            except ConnectionError:
                pass  # the answer came first
            statuses.append(read_answer(sock).status)
    assert set(statuses) == {200}, statuses


@pytest.mark.parametrize("wiring", ["buffered"], indirect=True)
def test_below_the_limit_a_large_prompt_is_read_whole_and_warm_when_it_comes_again(stack, client):
    for turn, reason in enumerate(["cold", "warm"]):
        marked = mark()
        body = iter(pieces(THREE_MB)) if turn else THREE_MB
        answer = client.send("POST", CHAT, body, {MARK: marked, "content-type": "application/json"}, chunked=bool(turn))
        assert (answer.status, answer.reason) == (200, reason)
        [request] = seen(stack.pods, marked)
        assert request["body_bytes"] == len(THREE_MB)


@pytest.mark.parametrize("wiring", ["buffered"], indirect=True)
def test_the_documented_limit_is_the_limit(stack, client):
    body = json.dumps(chat_body("x")).encode()
    at = body + b" " * (BUFFER_LIMIT - len(body))
    assert client.post(CHAT, at).status == 200
    assert client.post(CHAT, at + b" ").status == 413
    assert client.post("/v1/chat/completions/?a=b", at + b" ").status == 413


def test_an_upload_streams_through(stack, client):
    """Not an LLM path: neither read nor held back, however long."""
    data = bytes(range(256)) * 32_768
    before = sent_to_pods(stack), stack.envoy.stats()["bytes_read"]
    with connect(stack.envoy.url) as sock:
        sock.sendall(head("POST", "/upload", f"content-length: {len(data)}"))
        sock.sendall(data[:5_000_000])
        wait_for("the pod to get the first part", lambda: sent_to_pods(stack) - before[0] > 5_000_000 - HELD)
        sock.sendall(data[5_000_000:])
        answer = read_answer(sock)
    assert answer.json()["body_bytes"] == len(data)
    assert stack.envoy.stats()["bytes_read"] == before[1]


@pytest.mark.parametrize("wiring", ["streaming"], indirect=True)
def test_what_streamed_on_after_the_decision_is_warm_for_the_next(wiring, start, fresh):
    """The decision was made at 2 KB, but the pod got it all, and the journal knows that."""
    stack = start.stack(wiring, config={"limits": {"decide_at_bytes": 2048}})
    client = Client(stack.envoy.url)
    text = fresh(1000)
    body = json.dumps({"model": "sim", "prompt": text, "max_tokens": 2}).encode()
    before = cause(stack, "too_large")
    with connect(stack.envoy.url) as sock:
        sock.sendall(head("POST", "/v1/completions", "transfer-encoding: chunked") + chunk(body[:2500]))
        wait_for("the decision", lambda: cause(stack, "too_large") == before + 1)
        sock.sendall(chunk(body[2500:]) + chunk(b""))
        long = read_answer(sock)
    assert (long.status, long.reason) == (200, "load_only")
    short = client.post("/v1/completions", {"model": "sim", "prompt": text[:1500], "max_tokens": 2})
    assert (short.pod, short.reason) == (long.pod, "warm")
    assert short.cached > 200
