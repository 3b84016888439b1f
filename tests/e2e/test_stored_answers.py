"""A stored answer of /v1/responses is at one pod: what goes on from it, and what asks for it, goes there."""

import pytest
from stack.client import Client
from stack.process import wait_for

RESPONSES = "/v1/responses"


def ask(client: Client, text: str, **more):
    return client.post(RESPONSES, {"model": "sim", "input": text, "max_output_tokens": 2, **more})


def made(answer) -> str:
    """The id of an answer, streamed or not."""
    text = answer.body.decode()
    return text[text.index('"resp_') + 1 :].split('"')[0]


@pytest.mark.parametrize("stream", [False, True])
def test_conversations_go_on_where_their_state_is(client, fresh, stream):
    for _ in range(6):
        first = ask(client, fresh(30), stream=stream)
        second = ask(client, fresh(30), stream=stream, previous_response_id=made(first))
        third = ask(client, fresh(30), previous_response_id=made(second))
        assert [(a.status, a.pod, a.reason) for a in (second, third)] == [(200, first.pod, "pinned")] * 2


def test_a_stored_answer_can_be_asked_for(client, fresh):
    answers = [ask(client, fresh(30)) for _ in range(12)]
    assert len({a.pod for a in answers}) > 1
    for answer in answers:
        got = client.send("GET", f"{RESPONSES}/{made(answer)}")
        assert (got.status, got.pod, got.json()["id"]) == (200, answer.pod, made(answer))
        assert client.send("POST", f"{RESPONSES}/{made(answer)}/cancel", b"").pod == answer.pod


def test_one_that_nobody_knows_is_the_pods_to_refuse(stack, client, fresh):
    before = stack.envoy.stats()["load_only{cause=stateful}"]
    answer = ask(client, fresh(30), previous_response_id="resp_of_another_gateway")
    assert (answer.status, answer.reason) == (404, "load_only")
    assert client.send("GET", f"{RESPONSES}/resp_unknown").status == 404
    assert stack.envoy.stats()["load_only{cause=stateful}"] == before + 2


def test_a_gateway_that_restarts_still_knows(start, wiring, fresh):
    stack = start.stack(wiring)
    client = Client(stack.envoy.url)
    answers = [ask(client, fresh(30)) for _ in range(6)]
    entries = stack.wait_until_sidecar_knows()
    stack.envoy.process.restart()
    wait_for("the refill", lambda: stack.envoy.stats().get("index_entries") == entries)
    again = [ask(client, fresh(30), previous_response_id=made(answer)) for answer in answers]
    assert [(a.pod, a.reason) for a in again] == [(answer.pod, "pinned") for answer in answers]
