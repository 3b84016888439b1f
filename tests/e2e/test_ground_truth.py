"""What the pods report as cached corrects what the filter believes, and every missed token has a cause."""

from stack.client import Client
from stack.process import wait_for


def misses(stats: dict) -> dict[str, int]:
    prefix = "missed_tokens{cause="
    return {name.removeprefix(prefix).rstrip("}"): value for name, value in stats.items() if name.startswith(prefix)}


def missed(stats: dict) -> int:
    return stats["true_prompt_tokens"] - stats["true_hit_tokens"]


def ask(stack, client, text: str) -> int:
    """Sends a chat; waits until its answer is counted; returns its cached tokens."""
    before = stack.envoy.stats()["true_prompt_tokens"]
    answer = client.chat(text)
    assert answer.status == 200
    wait_for("its usage to be counted", lambda: stack.envoy.stats()["true_prompt_tokens"] > before)
    return answer.cached


def test_a_lost_cache_is_seen_with_the_second_answer_and_misses_have_causes(start, wiring, fresh):
    stack = start.stack(wiring, pods=2)
    client = Client(stack.envoy.url)
    texts = [fresh(2000) for _ in range(8)]
    assert [ask(stack, client, text) for text in texts] == [0] * 8
    assert all(ask(stack, client, text) > 1500 for text in texts)
    stats = stack.envoy.stats()
    assert misses(stats)["new"] >= 0.9 * missed(stats)

    for pod in stack.pods:
        pod.post("/debug/reset_cache")
    first = [ask(stack, client, text) for text in texts]
    assert first == [0] * 8
    stats = stack.envoy.stats()
    found = misses(stats)
    assert found["restart"] > 1500, "the first answers of each pod were a surprise"
    assert sum(found.values()) == missed(stats)
    # Two answers that find nothing show that all is lost: the other prompts are believed to be warm nowhere.
    assert found["restart"] <= 2 * 2 * 2600, found
    wait_for("the gauge", lambda: stack.envoy.stats()["index_forgotten"] > 0)
