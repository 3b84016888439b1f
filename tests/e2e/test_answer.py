"""Answers go to the client as they are, and the filter reads in passing what they tell."""

import http.client
import json
import re
import time

import pytest
from stack.client import Client, chat_body
from stack.process import wait_for
from wire import MARK, mark, seen

CHAT = "/v1/chat/completions"
PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]


def body_of(path: str, text: str, tokens: int = 3) -> dict:
    if path == "/v1/completions":
        return {"prompt": text, "max_tokens": tokens}
    if path == "/v1/responses":
        return {"input": text, "max_output_tokens": tokens}
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}


def usage_counters(stack) -> tuple[int, int]:
    stats = stack.envoy.stats()
    return stats["true_prompt_tokens"], stats["true_hit_tokens"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", PATHS)
def test_usage_is_read_as_the_pods_report_it(stack, client, fresh, path, stream):
    before = usage_counters(stack)
    marked = mark()
    text = fresh()
    for more in ("", " and more", " and more yet"):
        body = body_of(path, text + more) | {"stream": stream}
        if stream and path in PATHS[:2]:
            body["stream_options"] = {"include_usage": True}
        assert client.post(path, body, {MARK: marked}).status == 200
    requests = seen(stack.pods, marked)
    told = sum(r["prompt_tokens"] for r in requests), sum(r["cached_tokens"] for r in requests)
    assert len(requests) == 3
    assert told[1] > told[0] / 2

    def read() -> tuple[int, int]:
        return tuple(now - then for now, then in zip(usage_counters(stack), before, strict=True))

    # A stream's end reaches the client before the filter is told that it is over.
    wait_for(f"{told} to be counted", lambda: read() == told, timeout=3)


def test_a_stream_without_usage_is_fine_too(stack, client, fresh):
    before = usage_counters(stack)
    answer = client.chat(fresh(), stream=True)
    assert answer.body.rstrip().endswith(b"data: [DONE]")
    assert b'"usage":{' not in answer.body
    wait_for("it to be over", lambda: stack.envoy.stats()["in_flight"] == 0)
    assert usage_counters(stack) == before


def without_identity(body: bytes) -> bytes:
    """Answers of one pod to one prompt differ in their numbers and times alone."""
    named = re.sub(rb'"(id|item_id|request_id)":"[^"]*"', rb'"\1":""', body)
    counted = re.sub(rb'"cached_tokens":\d+|"cache_(read|creation)_input_tokens":\d+|"input_tokens":\d+', b"", named)
    return re.sub(rb'"(created|created_at|completed_at)":[0-9.]+', rb'"\1":0', counted)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", PATHS)
def test_answers_arrive_unaltered(stack, client, fresh, path, stream):
    body = body_of(path, fresh(), 40) | {"stream": stream}
    answer = client.post(path, body)
    direct = Client(f"http://{answer.pod}").post(path, body)
    assert without_identity(answer.body) == without_identity(direct.body)
    assert len(direct.body) > 300
    # Tokens found in the cache may be written with more digits.
    assert answer.headers.get("content-length", str(len(answer.body))) == str(len(answer.body))
    for name in ("content-type", "cache-control", "transfer-encoding"):
        assert answer.headers.get(name) == direct.headers.get(name), name


def test_an_error_of_a_pod_arrives_unaltered(stack, client):
    answer = client.chat("x", model="no-such-model")
    direct = Client(f"http://{answer.pod}").chat("x", model="no-such-model")
    assert (answer.status, answer.body) == (404, direct.body)


@pytest.fixture
def slow(wiring, start):
    """One pod that takes its time for each token."""
    return start.stack(wiring, pods=1, pod_options={"step_ms": 50, "kv_tokens": 1_000_000})


def test_streams_are_not_held_back(slow, fresh):
    connection = http.client.HTTPConnection(slow.envoy.url.removeprefix("http://"), timeout=20)
    began = time.monotonic()
    body = chat_body(fresh(50), stream=True) | {"max_tokens": 20}
    connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    arrivals = []
    while line := answer.readline():
        if b'"content":"' in line:
            arrivals.append(time.monotonic() - began)
    connection.close()
    assert len(arrivals) >= 20
    assert arrivals[-1] > 19 * 0.05
    assert arrivals[0] < arrivals[-1] / 2
    gaps = [later - earlier for earlier, later in zip(arrivals, arrivals[1:], strict=False)]
    assert max(gaps) < 0.5, "token by token"


def histogram(envoy, cache: str, what: str) -> float:
    """`count` or `sum` of the times to first token of streams that found the cache `cold` or `warm`."""
    lines = envoy.get("/stats/prometheus").splitlines()
    # However tags are written: `warmpath_` itself has a `warm` in it.
    names = [x.removeprefix("warmpath_") for x in lines if x.startswith("warmpath_ttft_ms")]
    [line] = [x for x in names if re.search(rf"\w_{what}\{{", x) and cache in x]
    return float(line.rpartition(" ")[2])


def test_the_time_to_first_token_is_measured_for_cold_and_warm_streams(slow, fresh):
    client = Client(slow.envoy.url)
    text = fresh(2000)
    for _ in range(3):
        assert client.chat(text, stream=True).status == 200
    wait_for(
        "the histograms to be merged",
        lambda: [histogram(slow.envoy, cache, "count") for cache in ("cold", "warm")] == [1, 2],
    )
    cold, warm = (histogram(slow.envoy, cache, "sum") for cache in ("cold", "warm"))
    # 2,000 words take the pod 125 ms and a step of 50 ms; warm ones only the step.
    assert 150 < cold < 1000
    assert warm / 2 < cold


def test_what_answers_show_is_learned(slow, fresh):
    """Bytes a token and prefill rate begin at the configured guesses and go where the pod really is."""
    client = Client(slow.envoy.url)
    before = slow.envoy.stats()
    for _ in range(12):
        client.chat(fresh(3000), stream=True, stream_options={"include_usage": True})
    # The pod prefills 16,000 tokens a second, the prior is 8,000.
    wait_for(
        "a better guess",
        lambda: slow.envoy.stats()["prefill_tokens_per_second"] > before["prefill_tokens_per_second"] * 1.2
        and slow.envoy.stats()["bytes_per_token_milli"] != before["bytes_per_token_milli"],
    )


def test_debug_headers_are_there_only_when_asked_for(wiring, start, fresh):
    stack = start.stack(wiring, pods=1, config={"debug_headers": False})
    client = Client(stack.envoy.url)
    answers = [client.chat(fresh()), client.chat(fresh(), stream=True)]
    answers += [client.post(CHAT, b"odd"), client.send("GET", CHAT)]
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-warmpath")]
    assert stack.envoy.stats()["steered"] == 3
