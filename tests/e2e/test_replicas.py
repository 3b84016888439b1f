"""Replicas of the gateway, each with a sidecar of its own, have one view."""

import time
from dataclasses import dataclass

import pytest
from stack.client import Client
from stack.envoy import Envoy
from stack.process import free_port, wait_for
from stack.sidecar import Sidecar

# How soon one knows what another routed; a busy machine is sometimes later.
SOON_S = 0.1


@dataclass
class Replica:
    envoy: Envoy
    sidecar: Sidecar
    client: Client

    def peers(self) -> list[dict]:
        return [peer for peer in self.sidecar.status()["peers"] if peer["connected"]]

    def view(self) -> dict:
        (view,) = self.sidecar.status()["views"]
        return view

    def routed(self) -> int:
        return sum(endpoint["routed"] for endpoint in self.view()["endpoints"])

    def entries(self) -> int:
        return self.envoy.stats()["index_entries"]


class Gateway:
    """Two replicas in front of the same pods."""

    def __init__(self, wiring, start):
        self.wiring, self.start = wiring, start
        self.pods = [start.pod().address for _ in range(4)]
        self.ports = [free_port(), free_port()]
        self.replicas = [self.replica(n) for n in range(2)]
        for replica in self.replicas:
            wait_for("the peer", lambda replica=replica: len(replica.peers()) == 1)

    def start_sidecar(self, n: int, feed: str | None = None) -> Sidecar:
        own, other = self.ports[n], self.ports[1 - n]
        listen, peers = f"127.0.0.1:{own}", f"127.0.0.1:{own};127.0.0.1:{other}"
        return self.start.sidecar(self.pods, feed=feed, peers_listen=listen, peers=peers)

    def start_envoy(self, feed: str) -> Envoy:
        envoy = self.start.envoy(self.wiring, self.pods, feed=feed, config={"debug_headers": True}, concurrency=2)
        wait_for("the table", lambda: envoy.stats().get("endpoints_choosable") == 4)
        return envoy

    def replica(self, n: int) -> Replica:
        sidecar = self.start_sidecar(n)
        envoy = self.start_envoy(sidecar.feed)
        return Replica(envoy, sidecar, Client(envoy.url))


@pytest.fixture
def gateway(wiring, start) -> Gateway:
    return Gateway(wiring, start)


def test_what_one_replica_routed_is_warm_through_the_other_within_a_tenth_of_a_second(gateway, fresh):
    one, two = gateway.replicas
    late = []
    for ask, again in [(one, two), (two, one)] * 15:
        text = fresh(150)
        first = ask.client.chat(text)
        time.sleep(SOON_S)
        second = again.client.chat(text)
        assert second.pod == first.pod
        if second.reason != "warm":
            late.append(second.reason)
    assert len(late) <= 2, late


def test_both_hold_the_same_and_nothing_stays_in_flight(gateway, fresh):
    one, two = gateway.replicas
    for n in range(60):
        assert gateway.replicas[n % 2].client.chat(fresh(50)).status == 200
    # Each request once, wherever it came in.
    for replica in gateway.replicas:
        wait_for("all to be told", lambda replica=replica: replica.routed() == 60)
        wait_for("the answers", lambda replica=replica: replica.view()["in_flight"] == 0)
    assert one.view()["digest"] == two.view()["digest"]
    # A gauge is as old as the last tick.
    for replica in gateway.replicas:
        wait_for("Envoy to hold the same", lambda replica=replica: replica.entries() == one.view()["entries"] > 60)
        wait_for("nothing in flight", lambda replica=replica: replica.envoy.stats()["in_flight"] == 0)
    stats = [replica.envoy.stats() for replica in gateway.replicas]
    assert [s[name] for s in stats for name in ("journal_lost", "journal_bad", "journal_errors")] == [0] * 6


def test_an_envoy_that_restarts_is_refilled_with_what_the_other_replica_routed(gateway, fresh):
    one, two = gateway.replicas
    texts = [fresh(150) for _ in range(10)]
    pods = [one.client.chat(text).pod for text in texts]
    wait_for("the other to know", lambda: one.view()["digest"] == two.view()["digest"])
    two.envoy.process.restart()
    wait_for("the refill", lambda: two.entries() == two.view()["entries"] > 10)
    again = [two.client.chat(text) for text in texts]
    assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in pods]


def test_while_a_sidecar_is_away_its_envoy_steers_and_afterwards_it_learns_from_the_other(gateway, fresh):
    one, two = gateway.replicas
    mine = [fresh(150) for _ in range(5)]
    pods = [two.client.chat(text).pod for text in mine]
    wait_for("the other to know", lambda: one.view()["digest"] == two.view()["digest"])
    two.sidecar.process.kill()
    theirs = [fresh(150) for _ in range(10)]
    their_pods = [one.client.chat(text).pod for text in theirs]
    again = [two.client.chat(text) for text in mine]
    assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in pods]
    two.sidecar = gateway.start_sidecar(1, two.sidecar.feed)
    # What was told while it was away comes from the other sidecar, and reaches the Envoy that was there all along.
    wait_for("all to be told", lambda: two.entries() == one.entries())
    again = [two.client.chat(text) for text in theirs]
    assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in their_pods]
    assert {a.status for a in again} == {200}
