"""Prompts go where they are warm."""

import json

import pytest
from stack.client import chat_body
from wire import MARK, mark, seen


def body_of(path: str, text: str) -> dict:
    return {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}], "max_tokens": 2},
        "/v1/completions": {"prompt": text, "max_tokens": 2},
        "/v1/responses": {"input": text, "max_output_tokens": 2},
        "/v1/messages": {"messages": [{"role": "user", "content": text}], "max_tokens": 2},
    }[path] | {"model": "sim"}


def ask(stack, client, path: str, body: dict | bytes):
    """The answer, and the request as its pod saw it."""
    marked = mark()
    answer = client.post(path, body, {MARK: marked})
    assert answer.status == 200, answer.body
    [request] = seen(stack.pods, marked)
    return answer, request


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_repeated_prompt_finds_its_pod_warm(stack, client, fresh, path, stream):
    body = body_of(path, fresh()) | {"stream": stream}
    first, request = ask(stack, client, path, body)
    assert (first.reason, request["cached_tokens"]) == ("cold", 0)
    for _ in range(4):
        again, request = ask(stack, client, path, body)
        assert (again.pod, again.reason) == (first.pod, "warm")
        assert request["cached_tokens"] >= 0.9 * request["prompt_tokens"]


def test_the_next_turns_of_a_conversation_follow_the_first(stack, client, fresh):
    messages = [{"role": "system", "content": fresh()}, {"role": "user", "content": "Hello"}]
    pods, before = set(), 0
    for turn in range(6):
        answer = client.post("/v1/chat/completions", {"model": "sim", "messages": messages, "max_tokens": 30})
        pods.add(answer.pod)
        usage = answer.json()["usage"]
        if turn > 0:
            # Whole blocks of 16 tokens of all that was there at the turn before.
            assert answer.reason == "warm"
            assert answer.cached >= before - 32
        before = usage["prompt_tokens"]
        messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": f"And {turn}? " * 20}]
    assert len(pods) == 1


def test_different_prompts_spread_over_the_pods(stack, client, fresh):
    pods = [client.chat(fresh(100)).pod for _ in range(45)]
    counts = {pod.address: pods.count(pod.address) for pod in stack.pods}
    assert min(counts.values()) >= 4, counts


def test_a_shared_system_prompt_is_found_by_another_conversation(stack, client, fresh):
    system = fresh(600)

    def conversation(question: str):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return client.post("/v1/chat/completions", {"model": "sim", "messages": messages, "max_tokens": 2})

    first, other = conversation("What is this?"), conversation("Who are you?")
    assert (other.pod, other.reason) == (first.pod, "warm")
    assert other.cached > 500


def test_two_cache_salts_never_share(stack, client, fresh):
    text = fresh()
    assert client.chat(text, cache_salt="one").reason == "cold"
    for more in ({"cache_salt": "two"}, {}):
        other = client.chat(text, **more)
        assert (other.reason, other.cached) == ("cold", 0)
    for more in ({"cache_salt": "one"}, {"cache_salt": "two"}, {}):
        assert client.chat(text, **more).reason == "warm"


def test_another_way_of_writing_the_same_prompt_is_warm(stack, client, fresh):
    text = fresh() + ' é "quoted" / done'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}]
    plain = chat_body(text, tools=tools)
    first, _ = ask(stack, client, "/v1/chat/completions", plain)
    turned = {"stream": False, "tools": tools, "temperature": 0.5, **dict(reversed(plain.items()))}
    escaped = "".join(f"\\u{ord(c):04x}" if c in "qé" else c for c in json.dumps(text, ensure_ascii=False))
    written = {
        "white space": json.dumps(plain, indent=4).encode(),
        "no white space": json.dumps(plain, separators=(",", ":")).encode(),
        "order at the top": json.dumps(turned).encode(),
        "raw UTF-8": json.dumps(plain, ensure_ascii=False).encode(),
        "escapes": json.dumps(plain).replace(json.dumps(text), escaped.replace("/", "\\/")).encode(),
    }
    for name, body in written.items():
        again, request = ask(stack, client, "/v1/chat/completions", body)
        assert (again.pod, again.reason) == (first.pod, "warm"), name
        assert request["cached_tokens"] >= 0.9 * request["prompt_tokens"], name


def test_paths_that_are_not_for_models_pass_untouched(stack, client):
    before = stack.envoy.stats()
    assert client.send("GET", "/v1/models").json()["data"][0]["id"] == "sim"
    answer = client.post("/something/else", b"anything")
    assert answer.json() == {"path": "/something/else", "method": "POST", "body_bytes": 8}
    assert not answer.reason
    after = stack.envoy.stats()
    assert [k for k in after if k.startswith(("requests", "decisions")) and after[k] != before[k]] == []
