"""A request with the operator's secret is answered by the filter with why it would go where."""

import json

import pytest
from stack.client import chat_body
from stack.process import wait_for
from wire import MARK, seen

SECRET = "open sesame 1234"
STACK = {"config": {"explain_secret": SECRET}}


def ask(client, body: dict | bytes, secret: str = SECRET, path: str = "/v1/chat/completions"):
    return client.post(path, body, {"x-warmpath-explain": secret, MARK: "asked"})


def test_what_is_explained_is_what_happens(client, fresh):
    text = fresh()
    cold = ask(client, chat_body(text))
    assert (cold.status, cold.headers["x-warmpath-explained"]) == (200, "1")
    assert cold.json()["reason"] == "cold"
    first = client.chat(text)
    assert first.reason == "cold"
    why = ask(client, chat_body(text)).json()
    again = client.chat(text)
    assert (why["reason"], why["choice"]) == (again.reason, again.headers["x-warmpath-endpoint"])
    best = why["endpoints"][0]
    assert (best["order"], best["address"]) == (1, why["choice"])
    assert abs(best["matched_tokens"] - int(again.headers["x-warmpath-matched-tokens"])) <= 1
    assert abs(why["prompt_tokens"] - int(again.headers["x-warmpath-prompt-tokens"])) <= 1
    assert [e["order"] for e in why["endpoints"]] == [1, 2, 3]
    assert all(e["matched_tokens"] == 0 for e in why["endpoints"][1:])


def test_an_explained_request_reaches_no_pod_and_leaves_nothing(stack, client, fresh):
    text = fresh()
    before = stack.envoy.stats()
    for _ in range(3):
        assert ask(client, chat_body(text)).json()["reason"] == "cold"
    after = stack.envoy.stats()
    assert seen(stack.pods, "asked") == []
    assert after["explained"] - before["explained"] == 3
    for name in ("requests{kind=chat}", "steered", "decisions{pool=all,reason=cold}", "prompt_tokens"):
        assert after[name] == before[name]
    assert client.chat(text).reason == "cold"
    wait_for("all to be over", lambda: stack.envoy.stats()["in_flight"] == 0)


@pytest.mark.parametrize(
    ("path", "body", "unread"),
    [
        ("/v1/chat/completions", b'{"model": "sim", "messages": [', "not_json"),
        ("/v1/chat/completions", b"", "empty"),
        ("/v1/embeddings", json.dumps({"model": "sim", "input": "x"}).encode(), "no_prefix"),
    ],
)
def test_what_cannot_be_matched_is_explained_by_load(client, path, body, unread):
    why = ask(client, body, path=path).json()
    assert (why["reason"], why["unread"]) == ("load_only", unread)
    assert why["choice"]


def test_a_large_body_is_explained(client, fresh):
    text = fresh(60_000)
    why = ask(client, chat_body(text)).json()
    assert why["reason"] == "cold" and why["prompt_tokens"] > 50_000


@pytest.mark.parametrize("secret", ["open sesame 1235", SECRET + "5"])
def test_another_secret_is_refused(stack, client, fresh, secret):
    before = stack.envoy.stats()["explain_refused"]
    answer = ask(client, chat_body(fresh()), secret)
    assert answer.status == 403
    assert answer.json()["error"]["code"] == 403
    assert stack.envoy.stats()["explain_refused"] == before + 1
