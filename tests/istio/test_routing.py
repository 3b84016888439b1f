"""Requests through a gateway that Istio made."""

from collections import Counter

import pytest

import check
from mesh import steered
from stack.envoy import DESTINATION
from stack.load import Load
from stack.process import wait_for

# One pod of three gets all of them by chance once in 3^23 times.
TRIES = 24


@pytest.mark.every_snapshot
def test_a_repeated_prompt_finds_its_pod_warm(client, wiring, fresh):
    for _ in range(3):
        text = fresh()
        first = client.chat(text)
        assert (first.status, first.reason, first.cached) == (200, "cold", 0)
        for _ in range(4):
            again = client.chat(text)
            assert (again.pod, again.reason) == (first.pod, "warm")
            assert again.cached >= 0.9 * again.json()["usage"]["prompt_tokens"]


def test_different_prompts_spread_over_the_pods(mesh, client, wiring, fresh):
    counts = Counter(client.chat(fresh(100)).pod for _ in range(45))
    assert counts.keys() == mesh.pods.table().keys() and min(counts.values()) >= 4, counts


@pytest.mark.every_snapshot
def test_a_client_cannot_choose_its_pod(mesh, client, wiring, fresh):
    for pod in mesh.pods.table():
        assert len(Counter(client.chat(fresh(20), {DESTINATION: pod}).pod for _ in range(TRIES))) > 1


def test_a_client_cannot_choose_its_pod_without_the_plugin_either(mesh, replica, client, wiring, fresh):
    mesh.wire(wiring, sha256="0" * 64)
    pod = next(iter(mesh.pods.table()))
    try:
        # FAIL_OPEN: no filter, and so none of its headers.
        wait = Counter()
        while (answer := client.chat(fresh(20), {DESTINATION: pod})).reason:
            wait["steered still"] += 1
            assert wait["steered still"] < 500
        assert answer.status == 200
        assert len(Counter(client.chat(fresh(20), {DESTINATION: pod}).pod for _ in range(TRIES))) > 1
    finally:
        mesh.steer(wiring)


def test_a_long_body_is_refused_where_bodies_are_held_and_streams_elsewhere(client, wiring, fresh):
    text = "x" * (5 * 1024 * 1024)
    answer = client.chat(fresh(20) + text)
    assert answer.status == (413 if wiring == "buffered" else 200)


@pytest.mark.every_snapshot
def test_switching_the_wiring_loses_and_unsteers_no_request(mesh, client, fresh):
    mesh.steer("buffered")
    texts = [fresh() for _ in range(12)]
    turn = iter(range(10**9))
    with Load(lambda: client.chat(texts[next(turn) % len(texts)])) as load:
        for wiring in ("streaming", "buffered", "streaming", "buffered"):
            mesh.steer(wiring)
            load.wait(20)
    assert [answer for answer in load.answers if not steered(answer)] == []


@pytest.mark.parametrize("wiring", ["streaming", "buffered"])
def test_while_both_wirings_are_there_requests_are_steered(wiring, mesh, replica, client, fresh):
    """Between the two steps of a switch, however long one waits."""
    mesh.steer("streaming" if wiring == "buffered" else "buffered")
    mesh.begin(wiring, mode="steer", debug_headers=True)
    wait_for("both plugins", lambda: len(check.plugin_names(check.Dump(replica.gateway.dump()))) == 2)
    text = fresh()
    answers = [client.chat(text) for _ in range(20)]
    assert len({answer.pod for answer in answers}) == 1 and all(steered(answer) for answer in answers)
    mesh.steer(wiring)
