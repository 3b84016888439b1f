"""A wrong configuration is named and harms nothing; a right one is taken over live."""

import pytest
from stack.load import Load
from stack.client import Client
from stack.envoy import Envoy
from stack.pods import Pod
from stack.process import wait_for
from stack.stack import Stack

WRONG = {
    "an unknown field": ({"placement": {"spil_ratio": 2}}, "at placement.spil_ratio:", "expected one of"),
    "a wrong type": ({"limits": {"choices": "many"}}, "at limits.choices:", "expected usize"),
    "out of range": ({"steer_percent": 101}, "at steer_percent:", "expected 0 to 100"),
    "an unknown word": ({"mode": "steering"}, "at mode:", "expected one of `off`, `shadow`, `steer`"),
    "no JSON": ("mode: steer", "at the top level:", "expected a JSON object"),
    "a pool without a name": ({"pools": [{"name": "a"}, {}]}, "at pools[1]", "missing field `name`"),
}


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    started = [Pod(tmp_path_factory.mktemp("pods"), f"pod{i}", instant=True).ready() for i in range(2)]
    yield [pod.address for pod in started]
    for pod in started:
        pod.stop()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_configuration_is_named_in_the_log_and_traffic_flows(start, pods, wiring, fresh, wrong):
    config, place, expected = WRONG[wrong]
    envoy = start.envoy(wiring, pods, config=config)
    client = Client(envoy.url)
    answers = [client.chat(fresh(20)) for _ in range(20)]
    assert {a.status for a in answers} == {200}
    assert {a.pod for a in answers} == set(pods)
    lines = [line for line in envoy.process.log().splitlines() if "pluginConfig" in line]
    assert lines
    assert all("critical" in line and place in line and expected in line for line in lines), lines
    assert envoy.stats()["config_errors"] >= 1


def updates(envoy: Envoy) -> int:
    return int(envoy.get("/stats?filter=^listener_manager.lds.update_success$").rpartition(": ")[2])


def take_over(envoy: Envoy, config, wiring: str | None = None) -> None:
    """Writes a configuration and waits until Envoy has it."""
    before = updates(envoy)
    envoy.write(config, wiring)
    wait_for("Envoy to take it over", lambda: updates(envoy) > before)


def ask_until(client: Client, text: str, what: str, fits) -> None:
    """The listener before serves until its workers have let go of it."""
    wait_for(what, lambda: fits(client.chat(text)), timeout=10)


@pytest.fixture(scope="module")
def live(wiring, tmp_path_factory):
    pod_options = {"instant": True, "kv_tokens": 2_000_000}
    with Stack(tmp_path_factory.mktemp(wiring), wiring, live=True, pod_options=pod_options) as running:
        yield running


GOOD = {"debug_headers": True}


def test_a_wrong_configuration_that_comes_live_changes_nothing(live, wiring, fresh):
    client = Client(live.envoy.url)
    take_over(live.envoy, GOOD, wiring)
    texts = [fresh() for _ in range(6)]
    pods = [client.chat(text).pod for text in texts]
    before = live.envoy.stats()["config_errors"]
    take_over(live.envoy, {**GOOD, "steer_percent": "all"})
    wait_for("the error to be counted", lambda: live.envoy.stats()["config_errors"] > before)
    assert "keeping the configuration before" in live.envoy.process.log()
    for _ in range(3):
        again = [client.chat(text) for text in texts]
        assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in pods]
    take_over(live.envoy, GOOD, wiring)


def test_modes_change_without_a_restart(live, wiring, fresh):
    client = Client(live.envoy.url)
    text = fresh()
    for _ in range(2):
        take_over(live.envoy, GOOD, wiring)
        ask_until(client, text, "steering", lambda a: a.headers.get("x-warmpath-steered") == "true")
        pod = client.chat(text).pod
        assert {client.chat(text).pod for _ in range(10)} == {pod}
        take_over(live.envoy, {**GOOD, "mode": "off"})
        ask_until(client, text, "off", lambda a: not a.reason)
        assert len({client.chat(text).pod for _ in range(20)}) > 1
        take_over(live.envoy, {**GOOD, "mode": "shadow"})
        ask_until(client, text, "shadow", lambda a: a.headers.get("x-warmpath-steered") == "false")
        assert len({client.chat(text).pod for _ in range(20)}) > 1


def test_the_sidecar_is_told_of_a_live_change_though_the_old_configuration_drains(live, wiring):
    def told() -> str:
        [view] = live.sidecar.status()["views"]
        return f"{view['mode']} {view['steer_percent']}"

    # Each is new: VMs of one that Envoy still drains would be used again, and are not told that they are.
    for change, wanted in [({"steer_percent": 90}, "steer 90"), ({"mode": "shadow", "steer_percent": 80}, "shadow 80")]:
        take_over(live.envoy, {**GOOD, **change}, wiring)
        wait_for(f"the sidecar to know of {wanted}", lambda: told().startswith(wanted), timeout=10)


def test_a_live_change_keeps_what_is_warm(live, wiring, fresh):
    client = Client(live.envoy.url)
    take_over(live.envoy, GOOD, wiring)
    texts = [fresh() for _ in range(10)]
    pods = [client.chat(text).pod for text in texts]
    take_over(live.envoy, {**GOOD, "limits": {"choices": 2}})
    again = [client.chat(text) for text in texts]
    assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in pods]


def test_the_wiring_changes_live_and_loses_neither_requests_nor_warmth(live, wiring, fresh):
    client = Client(live.envoy.url)
    take_over(live.envoy, GOOD, wiring)
    texts = [fresh() for _ in range(10)]
    pods = [client.chat(text).pod for text in texts]
    turns = iter(range(1_000_000))
    with Load(lambda: client.chat(texts[next(turns) % len(texts)])) as load:
        for to in ("streaming", "buffered", "streaming", "buffered"):
            take_over(live.envoy, GOOD, to)
            load.wait(20)
            again = [client.chat(text) for text in texts]
            assert [(a.pod, a.reason) for a in again] == [(pod, "warm") for pod in pods], to
    assert live.envoy.stats()["host_errors"] == 0
