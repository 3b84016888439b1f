"""Pods die, hang and answer errors: requests find another pod, and the dead are left alone."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack.load import Load
from stack.client import Client, chat_body
from stack.process import wait_for
from wire import MARK, mark

CHAT = "/v1/chat/completions"


@pytest.fixture
def running(wiring, start):
    return start.stack(wiring)


@pytest.fixture
def client(running):
    return Client(running.envoy.url)


def choosable(stack) -> int:
    return stack.envoy.stats()["endpoints_choosable"]


def test_a_pod_killed_before_it_answered_costs_no_request(running, client, fresh):
    texts = [fresh(100) for _ in range(30)]
    homes = [client.chat(text).pod for text in texts]
    dying = running.pods[0]
    doomed = [text for text, home in zip(texts, homes, strict=True) if home == dying.address]
    dying.behave("hang")
    asked = len(dying.requests())
    rerouted = running.envoy.stats()["rerouted"]
    with ThreadPoolExecutor(len(doomed) * 2) as pool:
        plain = [pool.submit(client.chat, text) for text in doomed]
        streams = [pool.submit(client.chat, text, stream=True) for text in doomed]
        wait_for("all to be in flight there", lambda: len(dying.requests()) == asked + 2 * len(doomed))
        dying.process.kill()
        answers = [one.result() for one in plain + streams]
    assert {a.status for a in answers} == {200}
    # Envoy went to the second of the list, and the journal knows.
    assert {a.pod for a in answers} <= {pod.address for pod in running.pods[1:]}
    assert running.envoy.stats()["rerouted"] == rerouted + len(answers)
    wait_for("nothing in flight", lambda: running.envoy.stats()["in_flight"] == 0)
    again = [client.chat(text) for text in doomed]
    assert {a.reason for a in again} == {"warm"}
    assert min(a.cached for a in again) > 50


def test_a_killed_pod_is_out_within_three_seconds_and_comes_back(running, client, fresh):
    texts = [fresh(100) for _ in range(10)]
    turns = iter(range(1_000_000))
    with Load(lambda: client.chat(texts[next(turns) % 10])) as load:
        running.pods[0].process.kill()
        wait_for("it to be out", lambda: choosable(running) == 2, timeout=3)
        load.wait(20)
        assert running.pods[0].address not in {client.chat(fresh(20)).pod for _ in range(20)}
        running.pods[0].process.start()
        running.wait_for_table(3)
        wait_for("it to be used", lambda: client.chat(fresh(20)).pod == running.pods[0].address)


def test_a_restarted_pod_is_not_believed_warm(running, client, fresh):
    """It has the same address, but another process start: its cache is empty."""
    texts = [fresh(100) for _ in range(20)]
    homes = [client.chat(text).pod for text in texts]
    pod = running.pods[0]
    pod.process.kill()
    wait_for("it to be out", lambda: choosable(running) == 2)
    pod.process.start()
    running.wait_for_table(3)
    for text, home in zip(texts, homes, strict=True):
        answer = client.chat(text)
        assert answer.reason == ("cold" if home == pod.address else "warm")


def test_a_pod_whose_connections_end_without_an_answer_costs_no_request(running, client, fresh):
    running.pods[0].behave("reset")
    answers = [client.chat(fresh(20)) for _ in range(40)]
    assert {a.status for a in answers} == {200}
    assert running.pods[0].address not in {a.pod for a in answers}


def test_a_pod_whose_metrics_are_slow_stays_choosable(running, client, fresh):
    pod = running.pods[0]
    texts = [fresh(100) for _ in range(20)]
    homes = [client.chat(text).pod for text in texts]
    pod.behave("slow_metrics", ms=5000)

    def is_late() -> bool:
        pods = json.loads(running.sidecar.get("/status"))["pods"]
        return next(p for p in pods if p["address"] == pod.address)["endpoints"][0]["state"] == "late"

    wait_for("it to be late", is_late)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert choosable(running) == 3
        assert [client.chat(text).pod for text in texts] == homes


def test_an_answer_of_503_leaves_no_belief_in_warmth(running, client, fresh):
    for pod in running.pods:
        pod.behave("status", code=503)
    before = running.envoy.stats()["upstream_errors"]
    texts = [fresh(100) for _ in range(10)]
    for _ in range(2):
        answers = [client.chat(text) for text in texts]
        assert {(a.status, a.reason) for a in answers} == {(503, "cold")}
    assert running.envoy.stats()["upstream_errors"] == before + 20
    wait_for("nothing in flight", lambda: running.envoy.stats()["in_flight"] == 0)
    for pod in running.pods:
        pod.behave("normal")
    first = [client.chat(text) for text in texts]
    assert {(a.status, a.reason) for a in first} == {(200, "cold")}
    assert [(a.pod, a.reason) for a in map(client.chat, texts)] == [(f.pod, "warm") for f in first]


def test_a_short_failure_of_a_pod_does_not_cost_its_warmth(running, client, fresh):
    text = fresh(100)
    home = running.pod_at(client.chat(text).pod)
    home.behave("status", code=500)
    assert client.chat(text).status == 500
    home.behave("normal")
    again = client.chat(text)
    assert (again.pod, again.reason) == (home.address, "warm")
    assert again.cached > 50


def test_a_pod_that_fails_in_a_row_is_left_alone_and_told_of(running, client, fresh):
    text = fresh(100)
    home = running.pod_at(client.chat(text).pod)
    home.behave("status", code=500)
    assert [client.chat(text).status for _ in range(3)] == [500] * 3
    elsewhere = client.chat(text)
    assert (elsewhere.status, elsewhere.pod == home.address) == (200, False)
    wait_for("the stat", lambda: running.envoy.stats()["endpoints_avoided"] == 1, timeout=1)
    assert choosable(running) == 3
    home.behave("normal")
    wait_for("it to be tried again", lambda: running.envoy.stats()["endpoints_avoided"] == 0, timeout=5)


def test_a_pod_that_stops_in_the_middle_of_a_stream_harms_no_other_request(running, client, fresh):
    """A stream that has begun cannot be repeated; its client sees it end, nobody else notices."""
    text = fresh(100)
    dying = running.pod_at(client.chat(text).pod)
    dying.behave("hang_mid_stream")
    ended = threading.Event()

    def cut_off() -> None:
        try:
            client.post(CHAT, chat_body(text, stream=True), {MARK: mark()})
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - http.client has its own for a body cut off
            pass
        ended.set()

    threading.Thread(target=cut_off, daemon=True).start()
    wait_for("the stream to be in flight", lambda: running.envoy.stats()["in_flight"] == 1)
    dying.process.kill()
    assert ended.wait(5)
    wait_for("nothing in flight", lambda: running.envoy.stats()["in_flight"] == 0)
    assert {client.chat(fresh(20)).status for _ in range(20)} == {200}


def test_with_all_pods_gone_the_gateway_says_so_and_recovers(running, client, fresh):
    for pod in running.pods:
        pod.process.kill()
    wait_for("all to be out", lambda: choosable(running) == 0)
    answer = client.chat(fresh(20))
    assert (answer.status, answer.reason) == (503, "fallback")
    for pod in running.pods:
        pod.process.start()
    running.wait_for_table(3)
    text = fresh(100)
    assert [client.chat(text).reason for _ in range(2)] == ["cold", "warm"]
