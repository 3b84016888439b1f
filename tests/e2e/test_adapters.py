"""A LoRA adapter that is on a pod's GPU is not loaded on another one without need."""

from stack.client import Client
from stack.process import wait_for


def test_prompts_for_an_adapter_go_where_it_is_loaded(start, wiring, fresh):
    options = {"kv_tokens": 1_000_000, "step_ms": 50, "lora": ["legal", "medical"]}
    stack = start.stack(wiring, pods=4, pod_options=options)
    client = Client(stack.envoy.url)
    homes = dict(zip(["legal", "medical"], stack.pods))
    for adapter, pod in homes.items():
        # Past the gateway, which cannot know but by what the pod says.
        start.background(Client(f"http://{pod.address}", timeout=60).chat, "work", model=adapter, max_tokens=400)
    loaded = {pod.address: [adapter] for adapter, pod in homes.items()}

    def seen() -> bool:
        return {p["address"]: p["adapters"] for p in stack.sidecar.status()["pods"] if p["adapters"]} == loaded

    wait_for("the sidecar to see them", seen)
    tables = stack.envoy.stats()["tables"]
    wait_for("a table with them", lambda: stack.envoy.stats()["tables"] > tables + 1)
    for adapter, pod in homes.items():
        answers = [client.chat(fresh(20), model=adapter) for _ in range(5)]
        assert [(a.status, a.pod) for a in answers] == [(200, pod.address)] * 5
