"""Shadow mode watches and counts, and steers nothing; `steer_percent` steers a part."""

from stack.client import Client


def decisions(stats: dict[str, int]) -> int:
    return sum(value for name, value in stats.items() if name.startswith("decisions"))


def test_in_shadow_mode_envoy_chooses_and_the_filter_counts(wiring, start, fresh):
    stack = start.stack(wiring, config={"mode": "shadow"})
    client = Client(stack.envoy.url)
    texts = [fresh() for _ in range(5)]
    answers = [client.chat(text) for _ in range(12) for text in texts]
    assert {a.headers["x-warmpath-steered"] for a in answers} == {"false"}
    for i in range(len(texts)):
        # Twelve draws of three pods leave one out in 1 of 40 cases, two in 1 of 180,000.
        assert len({a.pod for a in answers[i :: len(texts)]}) > 1, "one prompt, several pods"
    stats = stack.envoy.stats()
    assert (stats["steered"], stats["watched"], decisions(stats)) == (0, 60, 60)
    assert stats["decisions{pool=all,reason=warm}"] >= 50
    # The first time on each pod but the first was cold, and would have been warm.
    assert 0 < stats["shadow_won_tokens"] < 5 * 3 * 1000
    assert stats["rerouted"] == 0
    # What the journal knows of Envoy's choices is what the pods say.
    assert 0.9 < stats["predicted_hit_tokens"] / stats["true_hit_tokens"] < 1.2


def test_a_prompt_watched_on_its_pod_is_warm_there_once_steering_begins(wiring, start, fresh):
    """The journal holds what Envoy really chose."""
    stack = start.stack(wiring, config={"mode": "shadow"}, live=True)
    client = Client(stack.envoy.url)
    text = fresh()
    home = client.chat(text).pod
    assert client.chat(text).headers["x-warmpath-choice"] == home


def test_steer_percent_steers_that_part(wiring, start, fresh):
    stack = start.stack(wiring, config={"steer_percent": 50})
    client = Client(stack.envoy.url)
    steered = [client.chat(fresh(10)).headers["x-warmpath-steered"] == "true" for _ in range(200)]
    stats = stack.envoy.stats()
    assert (stats["steered"], stats["watched"]) == (sum(steered), 200 - sum(steered))
    # Six standard deviations of a fair coin.
    assert 58 < sum(steered) < 142


def test_none_of_the_requests_are_steered_at_zero_percent(wiring, start, fresh):
    stack = start.stack(wiring, config={"steer_percent": 0})
    client = Client(stack.envoy.url)
    assert {client.chat(fresh(10)).headers["x-warmpath-steered"] for _ in range(20)} == {"false"}
