"""Whoever sends prompts of tiny messages by the hundred takes no warmth from others while the pods have room for all."""

from stack.client import Client

ROOM = {"instant": True, "kv_tokens": 100_000}
# As small as it may be: the flood below would be 10,000 boundaries, one for each message.
SMALL = {"limits": {"max_index_entries": 1000}}
FLOOD, MESSAGES = 30, 340
CONVERSATIONS = 20


def test_a_flood_of_tiny_messages_leaves_others_their_warmth(start, wiring, fresh):
    stack = start.stack(wiring, pods=4, pod_options=ROOM, config=SMALL)
    client = Client(stack.envoy.url)
    talks = [[{"role": "user", "content": fresh()}] for _ in range(CONVERSATIONS)]

    def go_on(talk: list) -> tuple[int, int, int]:
        """Tokens that the pod had, that the filter knew of, and of the prompt."""
        answer = client.post("/v1/chat/completions", {"model": "sim", "messages": talk, "max_tokens": 20})
        assert answer.status == 200, answer.body
        talk += [answer.json()["choices"][0]["message"], {"role": "user", "content": "Go on, please."}]
        known = int(answer.headers["x-warmpath-matched-tokens"])
        return answer.cached, known, answer.json()["usage"]["prompt_tokens"]

    assert sum(cached for cached, _, _ in map(go_on, talks)) == 0
    for number in range(FLOOD):
        tiny = [{"role": "user", "content": f"{number} {i}"} for i in range(MESSAGES)]
        body = {"model": "sim", "messages": tiny, "max_tokens": 2}
        assert client.post("/v1/chat/completions", body).status == 200
    cached, known, asked = (sum(tokens) for tokens in zip(*map(go_on, talks), strict=True))
    # Pods without load are chosen by the prompt's beginning, so hits alone would not show that the filter forgot.
    assert known / asked > 0.7, f"{known} of {asked}"
    assert cached / asked > 0.85, f"{cached} of {asked}"
    stats = stack.envoy.stats()
    assert (stats["index_entries"] <= 1000, stats["index_crowded_out"]) == (True, 0)
