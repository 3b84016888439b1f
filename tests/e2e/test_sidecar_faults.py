"""The sidecar may be absent, die, hang and come back: no request fails, and what is warm stays warm."""

import itertools
import signal
import time

import pytest
from stack.load import Load
from stack.client import Client
from stack.process import free_port, wait_for


@pytest.fixture
def running(wiring, start):
    return start.stack(wiring)


class Texts:
    """Prompts that were sent before, and the pods that hold them."""

    def __init__(self, client: Client, fresh, count: int = 12):
        self.client = client
        self.texts = [fresh(150) for _ in range(count)]
        self.pods = [client.chat(text).pod for text in self.texts]
        self._turns = itertools.cycle(self.texts)

    def ask(self):
        return self.client.chat(next(self._turns))

    def assert_warm(self) -> None:
        again = [self.client.chat(text) for text in self.texts]
        assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in self.pods]
        assert min(a.cached for a in again) > 100


def assert_new_prompts_are_steered(client: Client, fresh) -> None:
    for _ in range(5):
        text = fresh(150)
        first, again = client.chat(text), client.chat(text)
        assert (first.reason, again.reason, again.pod) == ("cold", "warm", first.pod)


def table_age(stack) -> int:
    return stack.envoy.stats()["table_age_ms"]


def test_absent_at_the_start_requests_are_served_and_steering_begins_when_it_comes(wiring, start, fresh):
    pods = [start.pod() for _ in range(3)]
    addresses = [pod.address for pod in pods]
    feed = f"127.0.0.1:{free_port()}"
    envoy = start.envoy(wiring, addresses, feed=feed, config={"debug_headers": True})
    client = Client(envoy.url)
    answers = [client.chat(fresh(20)) for _ in range(30)]
    assert {(a.status, a.reason) for a in answers} == {(200, "fallback")}
    assert {a.pod for a in answers} == set(addresses)
    with Load(lambda: client.chat(fresh(20))) as load:
        start.sidecar(addresses, feed=feed)
        wait_for("a table", lambda: envoy.stats()["endpoints_choosable"] == 3, timeout=5)
        load.wait(10)
        assert_new_prompts_are_steered(client, fresh)


def test_without_any_cluster_for_it_requests_are_served(wiring, start, fresh):
    pod = start.pod()
    for cluster in ("", "no-such-cluster"):
        envoy = start.envoy(wiring, [pod.address], config={"debug_headers": True, "sidecar_cluster": cluster})
        answers = [Client(envoy.url).chat(fresh(20)) for _ in range(10)]
        assert {(a.status, a.reason) for a in answers} == {(200, "fallback")}


def test_killed_under_load_the_journal_steers_on(running, fresh):
    client = Client(running.envoy.url)
    texts = Texts(client, fresh)
    with Load(texts.ask) as load:
        running.sidecar.process.kill()
        load.wait(20)
        wait_for("the stream to end", lambda: running.envoy.stats()["feed_closed"] > 0)
        texts.assert_warm()
        assert_new_prompts_are_steered(client, fresh)
        load.wait(20)
    assert {a.reason for a in load.answers} == {"warm"}
    # Not even Envoy's tries to reach it again cost anything.
    wait_for("tries to reach it", lambda: running.envoy.stats()["feed_opened"] > 2)
    texts.assert_warm()


def test_stopped_under_load_the_journal_steers_on_and_its_return_is_taken_up(running, fresh):
    client = Client(running.envoy.url)
    texts = Texts(client, fresh)
    with Load(texts.ask) as load:
        running.sidecar.process.signal(signal.SIGSTOP)
        wait_for("the table to grow old", lambda: table_age(running) > 3000)
        load.wait(20)
        texts.assert_warm()
        assert_new_prompts_are_steered(client, fresh)
        running.sidecar.process.signal(signal.SIGCONT)
        wait_for("a new table", lambda: table_age(running) < 1500)
        texts.assert_warm()
    assert {a.reason for a in load.answers} == {"warm"}


def test_restarted_under_load_its_tables_are_taken_up_again(running, fresh):
    client = Client(running.envoy.url)
    texts = Texts(client, fresh)
    with Load(texts.ask) as load:
        for _ in range(2):
            before = running.envoy.stats()
            running.sidecar.process.restart()
            wait_for("a new stream", lambda: running.envoy.stats()["feed_opened"] > before["feed_opened"])
            wait_for("a new table", lambda: running.envoy.stats()["tables"] > before["tables"])
            texts.assert_warm()
            load.wait(10)
    assert {a.reason for a in load.answers} == {"warm"}
    assert running.envoy.stats()["endpoints_choosable"] == 3


def test_endpoints_come_and_go_with_the_file(running, start, fresh):
    client = Client(running.envoy.url)
    addresses = [pod.address for pod in running.pods]
    running.sidecar.write(addresses[:2])
    running.wait_for_table(2)
    assert {client.chat(fresh(20)).pod for _ in range(30)} == set(addresses[:2])
    running.sidecar.write(addresses)
    running.wait_for_table(3)
    assert {client.chat(fresh(20)).pod for _ in range(30)} == set(addresses)


def test_a_restarted_envoy_is_warm_again_within_seconds(running, fresh):
    client = Client(running.envoy.url)
    texts = Texts(client, fresh, 30)
    entries = running.wait_until_sidecar_knows()
    began = time.monotonic()
    running.envoy.process.kill()
    running.envoy.process.start()
    wait_for("the refill", lambda: running.envoy.stats().get("index_entries") == entries)
    assert time.monotonic() - began < 5
    texts.assert_warm()


def test_two_restarts_one_of_each_leave_a_gateway_that_steers(running, fresh):
    client = Client(running.envoy.url)
    texts = Texts(client, fresh)
    running.sidecar.process.restart()
    running.envoy.process.restart()
    wait_for("a table", lambda: running.envoy.stats().get("endpoints_choosable") == 3)
    assert {texts.ask().status for _ in range(20)} == {200}
    assert_new_prompts_are_steered(client, fresh)


def test_garbage_on_the_feed_is_refused_and_requests_are_served(wiring, start, fresh):
    """Something else answers at the feed's address."""
    pods = [start.pod() for _ in range(2)]
    envoy = start.envoy(wiring, [p.address for p in pods], feed=pods[0].address, config={"debug_headers": True})
    wait_for("tries to reach it", lambda: envoy.stats()["feed_closed"] > 1)
    answers = [Client(envoy.url).chat(fresh(20)) for _ in range(10)]
    assert {(a.status, a.reason) for a in answers} == {(200, "fallback")}
    assert envoy.process.alive()
