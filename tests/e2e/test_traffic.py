"""What the sidecar counts of requests is what was sent; what it tells pages is what happened."""

import json
import uuid
from collections import Counter

import pytest
from stack.client import Client, chat_body
from stack.events import Events
from stack.process import free_port, wait_for
from stack.stack import Stack


@pytest.fixture
def running(wiring, start) -> Stack:
    return start.stack(wiring)


@pytest.fixture
def client(running) -> Client:
    return Client(running.envoy.url)


@pytest.fixture
def page(running, request) -> Events:
    events = Events(running.sidecar.http)
    request.addfinalizer(events.stop)
    wait_for("the first status", lambda: events.statuses)
    return events


def traffic(sidecar) -> dict:
    (view,) = sidecar.status()["views"]
    return view["traffic"]


def counted(sidecar, requests: int) -> dict:
    """Traffic when so many requests were counted, and are over."""

    def all_of_it():
        (view,) = sidecar.status()["views"]
        found = view["traffic"]["total"]["requests"]
        assert found <= requests
        return found == requests and view["in_flight"] == 0 and view["traffic"]

    return wait_for(f"{requests} requests", all_of_it)


def stream(client: Client, text: str, **more):
    return client.chat(text, stream=True, stream_options={"include_usage": True}, **more)


def usage(answer) -> dict:
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json()["usage"]
    lines = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    return next(line["usage"] for line in lines if line.get("usage"))


def test_the_figures_are_those_of_what_was_sent(running, client, fresh):
    texts = [fresh(400), fresh(800)]
    answers = [ask(text) for ask in (client.chat, lambda t: stream(client, t)) for text in texts for _ in range(3)]
    answers.append(client.post("/v1/embeddings", {"model": "sim", "input": "x"}))
    found = counted(running.sidecar, len(answers))
    prompts = answers[:-1]
    told = [usage(answer) for answer in prompts]
    header = lambda name: sum(int(answer.headers[f"x-warmpath-{name}"]) for answer in answers)  # noqa: E731
    cached = sum((one.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for one in told)
    prompt = sum(one["prompt_tokens"] for one in told)
    reasons = Counter(answer.reason for answer in answers)
    assert reasons == {"cold": 2, "warm": 10, "load_only": 1}
    for span in ("total", "hour"):
        figures = found[span]
        assert {name: count for name, count in figures["reasons"].items() if count} == reasons
        assert len(figures["reasons"]) == 8
        assert figures["steered"] == figures["requests"] == len(answers)
        assert (figures["prompt_tokens"], figures["matched_tokens"]) == (header("prompt-tokens"), header("matched-tokens"))
        assert figures["tokens_saved"] == figures["matched_tokens"]
        assert (figures["true_prompt_tokens"], figures["true_cached_tokens"]) == (prompt, cached)
        assert figures["hit_ratio"] == pytest.approx(cached / prompt)
        assert figures["prefill_seconds_saved"] > 0
        assert figures["ttft_ms"]["p50"] is not None
        # All streams came after the plain ones, so they were warm.
        assert figures["ttft_warm_ms"] == figures["ttft_ms"] and figures["ttft_cold_ms"]["p50"] is None
    assert sum(point["requests"] for point in found["series"]) == len(answers)
    assert sum(point["true_cached_tokens"] for point in found["series"]) == cached
    assert all(point["at_s"] <= 0 and point["at_s"] % 10 == 0 for point in found["series"])
    first, *_ = found["prefixes"]
    assert (first["hits"], first["endpoints"], len(first["prefix"])) == (5, 1, 16)
    assert first["tokens_saved"] == first["tokens"] * 5 and len(found["prefixes"]) == 2


def test_now_is_the_last_ten_seconds(running, client, fresh):
    client.chat(fresh())
    counted(running.sidecar, 1)
    wait_for("it to be long ago", lambda: traffic(running.sidecar)["now"]["requests"] == 0, timeout=15)
    assert traffic(running.sidecar)["hour"]["requests"] == 1


def test_what_a_pod_refused_is_a_request_that_saved_nothing(running, client, fresh):
    text = fresh()
    home = running.pod_at(client.chat(text).pod)
    before = counted(running.sidecar, 1)["total"]
    home.behave("status", code=500)
    assert client.chat(text).status == 500
    after = counted(running.sidecar, 2)["total"]
    assert after["requests"] == 2
    assert (after["prompt_tokens"], after["tokens_saved"]) == (before["prompt_tokens"], before["tokens_saved"])


def test_a_page_sees_a_request_from_its_decision_to_its_end(running, client, page, fresh):
    text = fresh()
    stream(client, text)
    page.wait_for("done")
    answer = stream(client, text, max_tokens=7)
    page.wait_for("done", 2)
    first, second = (page.of("decided")[n]["id"] for n in range(2))
    for one in (first, second):
        assert [e["event"] for e in page.requests if e["id"] == one] == ["decided", "routed", "first_token", "done"]
    decided, routed, token, done = (e for e in page.requests if e["id"] == second)
    assert (decided["reason"], decided["steered"], decided["plugin"], decided["peer"]) == ("warm", True, "default", False)
    assert decided["matched_tokens"] == int(answer.headers["x-warmpath-matched-tokens"])
    assert decided["predicted_ms"] == pytest.approx(float(answer.headers["x-warmpath-predicted-ttft-ms"]), abs=0.11)
    assert routed["endpoint"] == token["endpoint"] == done["endpoint"] == answer.pod
    assert 0 <= token["ttft_ms"] <= done["t"] - decided["t"] + 1
    told = usage(answer)
    assert done["cached_tokens"] == told["prompt_tokens_details"]["cached_tokens"]
    assert (done["prompt_tokens"], done["output_tokens"]) == (told["prompt_tokens"], 7)
    assert decided["t"] <= token["t"] <= done["t"]


def test_a_page_gets_the_whole_series_first_and_then_the_newest_points(running, client, fresh, request):
    client.chat(fresh())
    counted(running.sidecar, 1)
    page = Events(running.sidecar.http)
    request.addfinalizer(page.stop)
    wait_for("three statuses", lambda: len(page.statuses) >= 3)
    whole = running.sidecar.status()
    assert page.statuses[0].keys() == whole.keys()
    (view,) = page.statuses[0]["views"]
    assert sum(point["requests"] for point in view["traffic"]["series"]) == 1
    assert all(len(status["views"][0]["traffic"]["series"]) <= 2 for status in page.statuses[1:])


def test_pages_are_bounded_and_end_with_the_sidecar(running, request):
    pages = []
    request.addfinalizer(lambda: [page.stop() for page in pages])
    for _ in range(32):
        pages.append(Events(running.sidecar.http))
    assert {page.status for page in pages} == {200}
    refused = Events(running.sidecar.http)
    assert (refused.status, b"open already" in refused.answer.read()) == (503, True)
    pages.pop().stop()
    pages.append(wait_for("room", lambda: (page := Events(running.sidecar.http)).status == 200 and page))
    running.sidecar.stop()
    assert all(page.ended.wait(2) for page in pages)


def test_peers_requests_are_told_and_not_counted(wiring, start, fresh, request):
    pods = [start.pod().address for _ in range(2)]
    ports = [free_port(), free_port()]
    peers = ";".join(f"127.0.0.1:{port}" for port in ports)
    sidecars = [start.sidecar(pods, peers_listen=f"127.0.0.1:{port}", peers=peers) for port in ports]
    envoys = [start.envoy(wiring, pods, feed=sidecar.feed, config={"debug_headers": True}) for sidecar in sidecars]
    for envoy, sidecar in zip(envoys, sidecars, strict=True):
        wait_for("the table", lambda envoy=envoy: envoy.stats().get("endpoints_choosable") == 2)
        wait_for("the peer", lambda sidecar=sidecar: sidecar.metric("warmpath_sidecar_peers_connected") == 1)
    page = Events(sidecars[1].http)
    request.addfinalizer(page.stop)
    answer = stream(Client(envoys[0].url), fresh())
    (done,) = page.wait_for("done")
    assert (done["peer"], done["endpoint"]) == (True, answer.pod)
    assert page.of("decided")[0]["reason"] == "cold"
    assert counted(sidecars[0], 1)["total"]["requests"] == 1
    assert traffic(sidecars[1])["total"]["requests"] == 0


def test_no_prompt_is_ever_shown(wiring, start, request):
    """Prompts are marked, also where they name a prefix, are refused or only explained."""
    pod = start.pod()
    sidecar = start.sidecar([pod.address], env={"RUST_LOG": "debug"})
    envoy = start.envoy(wiring, [pod.address], feed=sidecar.feed, config={"explain_secret": "open sesame 1234"})
    wait_for("the table", lambda: envoy.stats().get("endpoints_choosable") == 1)
    page = Events(sidecar.http)
    request.addfinalizer(page.stop)
    client = Client(envoy.url)
    mark = uuid.uuid4().hex
    text = f"{mark} said the fox " * 100
    for _ in range(2):
        stream(client, text)
    client.post("/v1/chat/completions", b'{"model": "sim", "messages": ["' + mark.encode())
    asked = [client.post("/v1/chat/completions", chat_body(text), {"x-warmpath-explain": "open sesame 1234"})]
    asked.append(Client(f"http://{sidecar.http}").post("/explain", chat_body(text)))
    asked.append(Client(f"http://{sidecar.http}").post("/explain", b"{" + mark.encode()))
    assert {answer.status for answer in asked} == {200}
    page.wait_for("done", 2)
    assert counted(sidecar, 3)["prefixes"]
    shown = [answer.body.decode() for answer in asked]
    shown += [sidecar.get("/status"), sidecar.get("/metrics"), page.raw.decode(), sidecar.log(), envoy.process.log()]
    assert [text for text in shown if mark in text] == []
    assert mark[:8] in text and "decided" in page.raw.decode(), "there was something to show"
