"""Data-parallel ranks: each has a cache of its own, and vLLM is told which one shall serve a request."""

from stack.envoy import RANK
from wire import MARK, mark, seen

STACK = {"pods": 2, "pod_options": {"instant": True, "kv_tokens": 2_000_000, "ranks": 3}}


def served(stack, marked: str) -> tuple[str, int]:
    """The pod and rank that served a request."""
    [(pod, request)] = [(p.address, r) for p in stack.pods for r in p.requests() if r["headers"].get(MARK) == marked]
    assert request["headers"][RANK] == str(request["engine"])
    return pod, request["engine"]


def test_a_prompt_comes_back_to_its_rank_and_prompts_spread_over_all(stack, client, fresh):
    used = set()
    for _ in range(40):
        text, marks = fresh(200), [mark(), mark()]
        first, again = (client.chat(text, {MARK: m}) for m in marks)
        assert (first.reason, again.reason) == ("cold", "warm")
        assert served(stack, marks[0]) == served(stack, marks[1])
        assert again.cached > 100
        used.add(served(stack, marks[0]))
    # Forty draws of six leave one out in 1 of 250 cases, two in 1 of 700,000.
    assert len(used) >= 5


def test_a_client_cannot_choose_a_rank(stack, client, fresh):
    text, marks = fresh(200), [mark() for _ in range(4)]
    client.chat(text, {MARK: marks[0]})
    for rank, marked in enumerate(marks[1:]):
        assert client.chat(text, {MARK: marked, RANK: str(rank)}).cached > 100
        assert served(stack, marked) == served(stack, marks[0])


def test_without_the_plugin_a_clients_rank_is_removed(stack, wiring, start, client, fresh):
    envoy = start.envoy(wiring, stack.envoy.pods, plugin=False)
    marked = mark()
    type(client)(envoy.url).chat(fresh(20), {RANK: "2", MARK: marked})
    [request] = seen(stack.pods, marked)
    assert RANK not in request["headers"]
