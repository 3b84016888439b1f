"""Saturation: endpoints over the limits get nothing while others are below; when all are over, priority decides."""

import json

import pytest
from stack.client import Client, chat_body
from stack.process import wait_for
from wire import connect, head, read_answer

CHAT = "/v1/chat/completions"
LIMITS = {"max_waiting": 2, "when_saturated": "reject", "priority_header": "x-priority"}
# One request runs, the others wait.
SLOW = {"max_num_seqs": 1, "kv_tokens": 100_000, "step_ms": 100}


@pytest.fixture
def busy(start, wiring):
    """Two pods with three requests waiting at each, sent past the gateway."""
    stack = start.stack(wiring, pods=2, pod_options=SLOW, config={"saturation": LIMITS})
    for pod in stack.pods:
        for _ in range(4):
            start.background(Client(f"http://{pod.address}", timeout=120).chat, "work", max_tokens=600)
    wait_for("the table to show it", lambda: [w >= 3 for w in waiting(stack)] == [True, True])
    return stack


def waiting(stack) -> list[int]:
    return [one["waiting"] for pod in stack.sidecar.status()["pods"] for one in pod["endpoints"]]


def test_when_all_pods_are_saturated_requests_are_refused_by_priority(busy, fresh):
    client = Client(busy.envoy.url, timeout=3)
    wait_for("the filter to know", lambda: client.chat(fresh(20)).status == 429)
    for api in (CHAT, "/v1/messages"):
        answer = client.post(api, chat_body(fresh(20)))
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
    assert client.chat(fresh(20), {"x-priority": "-1"}).status == 429
    stats = busy.envoy.stats()
    assert stats["refused"] == stats["decisions{pool=all,reason=shed}"] >= 4
    # A body that is refused before it is whole: the connection ends or goes on, the gateway lives.
    large = json.dumps(chat_body("a long story " * 200_000)).encode()
    with connect(busy.envoy.url) as sock:
        try:
            sock.sendall(head("POST", CHAT, f"content-length: {len(large)}") + large)
        except ConnectionError:
            pass  # the answer came first
        assert read_answer(sock).status == 429
    with pytest.raises(TimeoutError):
        # It waits its turn at a pod.
        client.chat(fresh(20), {"x-priority": "1"})
    # Other paths and large bodies are not harmed by replies on the same gateway.
    assert client.send("POST", "/upload", bytes(3_000_000)).status == 200


def test_a_pod_that_is_idle_takes_what_the_others_cannot(start, wiring, fresh):
    stack = start.stack(wiring, pods=2, pod_options=SLOW, config={"saturation": LIMITS})
    client = Client(stack.envoy.url, timeout=2)
    text = fresh(300)
    warm = client.chat(text).pod
    for _ in range(4):
        start.background(Client(f"http://{warm}", timeout=120).chat, "work", max_tokens=600)
    wait_for("the table to show it", lambda: max(waiting(stack)) >= 3)
    wait_for("the filter to know", lambda: (again := client.chat(text)).pod != warm and again.status == 200)
