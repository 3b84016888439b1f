"""One gateway, several pools: the request's model names its pool, and its adapter its pods."""

from dataclasses import dataclass

import pytest
from stack.client import Client
from stack.envoy import DESTINATION, Envoy
from stack.pods import Pod
from stack.process import wait_for
from stack.sidecar import Sidecar
from wire import MARK, mark, seen

POOLS = [{"name": "a", "models": ["model-a", "a-*"]}, {"name": "b", "models": ["model-b"]}]


@dataclass
class Gateway:
    envoy: Envoy
    client: Client
    a: list[Pod]
    b: list[Pod]


@pytest.fixture(scope="module")
def gateway(wiring, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"pools-{wiring}")
    parts: list = []

    def add(part):
        parts.append(part)
        return part

    def pod(name: str, model: str, **more) -> Pod:
        return add(Pod(folder, name, model=model, instant=True, kv_tokens=1_000_000, **more))

    try:
        a = [pod("a0", "model-a"), pod("a1", "model-a", lora="a-legal"), pod("a2", "model-a", lora=["a-x", "a-y"])]
        b = [pod("b0", "model-b"), pod("b1", "model-b")]
        for one in a + b:
            one.ready()
        addresses = {"a": [p.address for p in a], "b": [p.address for p in b]}
        listed = [{"name": name, "endpoints": endpoints} for name, endpoints in addresses.items()]
        sidecar = add(Sidecar(folder, [], pools=listed)).ready()
        config = {"debug_headers": True, "pools": POOLS}
        envoy = add(Envoy(folder, wiring, addresses["a"] + addresses["b"], sidecar.feed, config))
        wait_for("a table", lambda: envoy.stats().get("endpoints_choosable") == 5)
        yield Gateway(envoy, Client(envoy.url), a, b)
    finally:
        for part in reversed(parts):
            part.stop()


def pods_of(gateway, model: str, fresh, count: int = 30) -> set[str]:
    answers = [gateway.client.chat(fresh(20), model=model) for _ in range(count)]
    assert {a.status for a in answers} == {200}
    return {a.pod for a in answers}


def test_each_model_goes_to_the_pods_of_its_pool_and_to_all_of_them(gateway, fresh):
    assert pods_of(gateway, "model-a", fresh) == {pod.address for pod in gateway.a}
    assert pods_of(gateway, "model-b", fresh) == {pod.address for pod in gateway.b}


def test_an_adapter_goes_only_to_pods_that_list_it(gateway, fresh):
    assert pods_of(gateway, "a-legal", fresh) == {gateway.a[1].address}
    assert pods_of(gateway, "a-y", fresh) == {gateway.a[2].address}


def test_retries_stay_in_the_pool(gateway, fresh):
    marked = mark()
    gateway.client.chat(fresh(20), {MARK: marked}, model="model-b")
    [request] = seen(gateway.b, marked)
    assert set(request["headers"][DESTINATION].split(",")) == {pod.address for pod in gateway.b}


def test_models_do_not_share_what_is_warm(gateway, fresh):
    text = fresh()
    assert [gateway.client.chat(text, model="model-a").reason for _ in range(2)] == ["cold", "warm"]
    assert [gateway.client.chat(text, model="a-legal").reason for _ in range(2)] == ["cold", "warm"]
    assert [gateway.client.chat(text, model="model-b").reason for _ in range(2)] == ["cold", "warm"]


def test_a_model_of_no_pool_is_left_to_envoy(gateway, fresh):
    before = gateway.envoy.stats()["decisions{pool=none,reason=fallback}"]
    answer = gateway.client.chat(fresh(20), model="model-c")
    # Whichever pod got it says that it does not serve it.
    assert (answer.status, answer.reason) == (404, "fallback")
    assert gateway.envoy.stats()["decisions{pool=none,reason=fallback}"] == before + 1


def test_decisions_are_counted_by_pool(gateway, fresh):
    names = ["decisions{pool=a,reason=cold}", "decisions{pool=b,reason=cold}"]
    before = [gateway.envoy.stats()[name] for name in names]
    for model in ("model-a", "model-a", "model-b"):
        gateway.client.chat(fresh(20), model=model)
    assert [gateway.envoy.stats()[name] for name in names] == [before[0] + 2, before[1] + 1]
