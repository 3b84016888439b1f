"""Routes match on the model, which the filter reads from the body: one gateway, a Service for each model."""

from dataclasses import dataclass

import pytest
from stack.client import Client, chat_body
from stack.envoy import MODEL, Envoy
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
    fallback: Pod


def gateway_with(mode: str, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"models-{mode}")
    parts: list = []

    def add(part):
        parts.append(part)
        return part

    def pod(name: str, model: str, **more) -> Pod:
        return add(Pod(folder, name, model=model, instant=True, kv_tokens=1_000_000, **more))

    try:
        a = [pod("a0", "model-a", lora="a-legal"), pod("a1", "model-a", lora="a-legal")]
        b = [pod("b0", "model-b"), pod("b1", "model-b")]
        fallback = pod("other", "model-c")
        for one in [*a, *b, fallback]:
            one.ready()
        addresses = {"a": [p.address for p in a], "b": [p.address for p in b]}
        sidecar = add(Sidecar(folder, [], pools=[{"name": n, "endpoints": e} for n, e in addresses.items()])).ready()
        config = {"debug_headers": True, "mode": mode, "pools": POOLS, "model_header": MODEL}
        # No cluster has pods of two models: only a right route serves a request.
        routes = {"^(model-a|a-.*)$": addresses["a"], "^model-b$": addresses["b"]}
        envoy = add(
            Envoy(
                folder,
                "streaming",
                [fallback.address],
                sidecar.feed,
                {**config, "wiring": "streaming"},
                model_routes=routes,
            )
        )
        wait_for("a table", lambda: envoy.stats().get("endpoints_choosable") == 4)
        yield Gateway(envoy, Client(envoy.url), a, b, fallback)
    finally:
        for part in reversed(parts):
            part.stop()


@pytest.fixture(scope="module", params=["steer", "shadow"])
def gateway(request, tmp_path_factory):
    yield from gateway_with(request.param, tmp_path_factory)


def test_each_model_and_adapter_takes_its_own_route(gateway, fresh):
    for model, pods in [("model-a", gateway.a), ("a-legal", gateway.a), ("model-b", gateway.b)]:
        answers = [gateway.client.chat(fresh(20), model=model) for _ in range(20)]
        assert {a.status for a in answers} == {200}
        assert {a.pod for a in answers} == {pod.address for pod in pods}


def test_a_model_without_a_route_takes_the_one_for_all_others(gateway, fresh):
    answer = gateway.client.chat(fresh(20), model="model-c")
    assert (answer.status, answer.pod) == (200, gateway.fallback.address)


def test_the_clients_word_does_not_choose_the_route(gateway, fresh):
    marked = mark()
    answer = gateway.client.chat(fresh(20), {MODEL: "model-a", MARK: marked}, model="model-b")
    assert answer.status == 200
    [request] = seen(gateway.b, marked)
    assert request["headers"][MODEL] == "model-b"
    # A body that names no model: the header is gone, not the client's.
    body = chat_body(fresh(20))
    del body["model"]
    assert gateway.client.post("/v1/chat/completions", body, {MODEL: "model-a"}).pod == gateway.fallback.address


def test_the_model_is_found_behind_a_long_prompt_and_in_chunks(gateway, fresh):
    body = chat_body(fresh(60_000), model="model-b")
    late = {"messages": body["messages"], "max_tokens": 2, "model": "model-b"}
    for order in (body, late):
        assert gateway.client.post("/v1/chat/completions", order).status == 200


def test_on_its_route_a_request_is_steered_to_its_warm_pod(gateway, fresh):
    if gateway.envoy.stats()["steered"] == 0:
        pytest.skip("shadow steers nothing")
    for model in ("model-a", "model-b"):
        text = fresh()
        first, again = (gateway.client.chat(text, model=model) for _ in range(2))
        assert (first.reason, again.reason, again.pod) == ("cold", "warm", first.pod)
