"""Whatever a client sends reaches a healthy pod as it is, and harms nobody else."""

import gzip
import json
from dataclasses import dataclass, field

import pytest
from stack.client import chat_body
from stack.process import wait_for
from wire import MARK, chunk, connect, exchange, fnv, head, mark, read_answer, seen

CHAT = "/v1/chat/completions"
GOOD = json.dumps(chat_body("hello " * 50)).encode()
MESSAGES = '[{"role": "user", "content": "hello"}]'
DEEP = b"[" * 10_000 + b"]" * 10_000


@dataclass
class Odd:
    """A body, and why it is placed by load alone (`None`: it is not)."""

    name: str
    body: bytes
    cause: str | None
    headers: dict = field(default_factory=dict)
    path: str = CHAT


ODD = [
    Odd("not JSON", b"hello, is this the model?", "not_json"),
    Odd("JSON cut off", GOOD[:-20], "not_json"),
    Odd("JSON with something after it", GOOD + b" and more", "not_json"),
    Odd("empty body", b"", "empty"),
    Odd("only white space", b" \r\n\t ", "not_json"),
    Odd("a list at the top", b"[1, 2, 3]", "unknown_shape"),
    Odd("messages that are a number", b'{"model": "sim", "messages": 7}', "unknown_shape"),
    Odd("no messages", b'{"model": "sim"}', "no_prompt"),
    Odd("messages that are empty", b'{"model": "sim", "messages": []}', "no_prompt"),
    Odd("gzip", gzip.compress(GOOD), "compressed", {"content-encoding": "gzip"}),
    Odd("two messages members", f'{{"messages": {MESSAGES}, "messages": []}}'.encode(), "duplicate_member"),
    Odd("two, one escaped", rf'{{"messages": {MESSAGES}, "m\u0065ssages": []}}'.encode(), "duplicate_member"),
    Odd("nested 10,000 deep", b'{"messages": [{"role": "user", "content": ' + DEEP + b"}]}", "too_deep"),
    Odd("nested 10,000 deep where it does not matter", b'{"x": ' + DEEP + b"}", "too_deep"),
    Odd("not UTF-8", GOOD.replace(b"hello", b"h\xff\xfe\xc3", 1), "not_utf8"),
    Odd("zero bytes", bytes(1000), "not_json"),
    Odd("state on the server", b'{"input": "x", "previous_response_id": "r"}', "stateful", path="/v1/responses"),
    Odd("embeddings", b'{"input": "x"}', "no_prefix", path="/v1/embeddings"),
    Odd("a lone surrogate", b'{"model": "sim", "messages": [{"role": "user", "content": "\\ud800 x"}]}', None),
    Odd("a query behind the path", GOOD, None, path=CHAT + "?trace=1"),
]


def load_only(stack) -> dict[str, int]:
    stats = stack.envoy.stats()
    return {k.removeprefix("load_only{cause=").rstrip("}"): v for k, v in stats.items() if k.startswith("load_only")}


def assert_all_workers_steer(stack, client, fresh) -> None:
    """Connections spread over the workers: enough of them reach each."""
    text = fresh(100)
    pods = {client.chat(text).pod for _ in range(12)}
    assert len(pods) == 1


def assert_reached_a_pod(stack, marked: str, method: str, path: str, body: bytes) -> dict:
    [request] = seen(stack.pods, marked)
    assert (request["method"], request["path"], request["body_bytes"]) == (method, path, len(body))
    assert request["body_sha"] == fnv(body)
    return request


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_an_odd_body_reaches_a_pod_unchanged(stack, client, fresh, odd, chunked):
    before = load_only(stack)
    marked = mark()
    headers = {"content-type": "application/json", MARK: marked, **odd.headers}
    pieces = [odd.body[i : i + 1000] for i in range(0, len(odd.body), 1000)]
    answer = client.send("POST", odd.path, iter(pieces) if chunked else odd.body, headers, chunked)
    assert answer.status < 500
    assert_reached_a_pod(stack, marked, "POST", odd.path, odd.body)
    grown = {cause for cause, count in load_only(stack).items() if count != before[cause]}
    assert grown == ({odd.cause} if odd.cause else set())
    assert answer.headers["x-warmpath-steered"] == "true"
    assert_all_workers_steer(stack, client, fresh)


def test_a_get_on_a_path_for_models_reaches_a_pod(stack, client):
    answer = client.send("GET", CHAT)
    assert answer.json() == {"path": CHAT, "method": "GET", "body_bytes": 0}


def test_a_post_without_any_body_reaches_a_pod(stack):
    marked = mark()
    answer = exchange(stack.envoy.url, head("POST", CHAT, f"{MARK}: {marked}", "content-length: 0"))
    assert answer.reason == "load_only"
    assert_reached_a_pod(stack, marked, "POST", CHAT, b"")


def test_five_megabytes_reach_a_pod_or_get_413(stack, client, wiring, fresh):
    body = json.dumps(chat_body("five megabytes " * 350_000)).encode()
    assert len(body) > 5_000_000
    marked = mark()
    answer = client.post(CHAT, body, {MARK: marked})
    if wiring == "buffered":
        assert answer.status == 413
        assert seen(stack.pods, marked) == []
    else:
        assert answer.status in (200, 400)
        assert_reached_a_pod(stack, marked, "POST", CHAT, body)
    assert_all_workers_steer(stack, client, fresh)


@pytest.mark.parametrize("good", [True, False], ids=["JSON", "not JSON"])
def test_a_body_with_trailers_reaches_a_pod(stack, client, fresh, good):
    marked = mark()
    body = GOOD if good else b"not json at all"
    answer = exchange(
        stack.envoy.url,
        head("POST", CHAT, f"{MARK}: {marked}", "transfer-encoding: chunked", "content-type: application/json"),
        chunk(body[:100]),
        chunk(body[100:]) if good else b"",
        b"0\r\nx-checksum: 1\r\n\r\n",
    )
    assert answer.status == (200 if good else 400)
    assert (answer.reason == "load_only") == (not good)
    assert_reached_a_pod(stack, marked, "POST", CHAT, body)
    assert_all_workers_steer(stack, client, fresh)


def test_trailers_after_no_body_reach_a_pod(stack, client, fresh):
    marked = mark()
    lines = [f"{MARK}: {marked}", "transfer-encoding: chunked"]
    answer = exchange(stack.envoy.url, head("POST", CHAT, *lines), b"0\r\nx-checksum: 1\r\n\r\n")
    assert (answer.status, answer.reason) == (400, "load_only")
    assert_reached_a_pod(stack, marked, "POST", CHAT, b"")


def test_a_body_byte_by_byte_is_read_as_a_whole_one(stack, client, fresh):
    text = fresh(30)
    body = json.dumps(chat_body(text)).encode()
    first = client.post(CHAT, body)
    lines = [f"content-length: {len(body)}", "content-type: application/json"]
    again = exchange(stack.envoy.url, head("POST", CHAT, *lines), *(body[i : i + 1] for i in range(len(body))))
    assert (again.pod, again.reason) == (first.pod, "warm")


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing_behind(stack, client, fresh):
    for size in (10, 300, 2_000_000):
        with connect(stack.envoy.url) as sock:
            sock.sendall(head("POST", CHAT, "content-length: 3000000"))
            sock.sendall((GOOD[:-30] + b" more" * size)[:size])
    wait_for("nothing in flight", lambda: stack.envoy.stats()["in_flight"] == 0)
    assert_all_workers_steer(stack, client, fresh)


def test_a_client_that_goes_before_its_answer_leaves_nothing_behind(stack, client, fresh):
    for pod in stack.pods:
        pod.behave("hang")
    try:
        before = stack.envoy.stats()["unanswered"]
        with connect(stack.envoy.url) as sock:
            sock.sendall(head("POST", CHAT, f"content-length: {len(GOOD)}") + GOOD)
            wait_for("it to be in flight", lambda: stack.envoy.stats()["in_flight"] == 1)
    finally:
        for pod in stack.pods:
            pod.behave("normal")
    wait_for("nothing in flight", lambda: stack.envoy.stats()["in_flight"] == 0)
    assert stack.envoy.stats()["unanswered"] == before + 1
    assert_all_workers_steer(stack, client, fresh)


def test_requests_on_one_connection_do_not_mix(stack, fresh):
    """Good and odd ones by turns, the next sent before the answer to the one before has come."""
    texts = [fresh(50) for _ in range(5)]
    bodies = [body for text in texts for body in (json.dumps(chat_body(text)).encode(), b"odd")]
    marks = [mark() for _ in bodies]
    sent = [
        head("POST", CHAT, f"{MARK}: {m}", f"content-length: {len(b)}", "content-type: application/json") + b
        for m, b in zip(marks, bodies, strict=True)
    ]
    with connect(stack.envoy.url) as sock:
        statuses = []
        for one in sent:
            sock.sendall(one)
            statuses.append(read_answer(sock).status)
    assert statuses == [200, 400] * 5
    for marked, body in zip(marks, bodies, strict=True):
        assert_reached_a_pod(stack, marked, "POST", CHAT, body)
