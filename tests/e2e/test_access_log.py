"""The access log of istio/observe says of each request what was decided, and nothing of what was asked."""

import pytest
from stack.client import Client
from stack.observe import FIELDS, Traced, merged
from stack.process import wait_for
from wire import MARK, mark, seen

SECRET = "open sesame 1234"
STACK = {"config": {"log_fields": True, "debug_headers": True, "explain_secret": SECRET}, "manager": merged("access-log.yaml")}


def line(stack, traced: Traced) -> dict:
    """The line of that request."""

    def found() -> list[dict]:
        return [line for line in stack.envoy.access_log() if line["traceparent"] == traced.parent]

    (only,) = wait_for("the line", found)
    return only


def decision(logged: dict) -> dict:
    return {name: logged[f"warmpath_{name}"] for name in FIELDS}


def test_a_line_agrees_with_the_debug_headers(stack, client, fresh):
    text = fresh()
    for reason in ("cold", "warm"):
        traced = Traced()
        answer = client.chat(text, traced.headers)
        assert answer.reason == reason
        logged = line(stack, traced)
        assert (logged["status"], logged["method"], logged["path"]) == (200, "POST", "/v1/chat/completions")
        assert logged["upstream"] == answer.headers["x-warmpath-endpoint"]
        assert decision(logged) == {
            **answer.decision,
            "cached_tokens": str(answer.cached),
            # Only a stream has a first token.
            "ttft_ms": None,
        }
        assert logged["duration_ms"] >= logged["first_byte_ms"] >= 0
        assert (logged["attempts"], logged["bytes_sent"]) == (1, len(answer.body))
    assert int(logged["warmpath_cached_tokens"]) > 0


def test_a_stream_has_the_time_of_its_first_token(stack, client, fresh):
    traced = Traced()
    assert client.chat(fresh(), traced.headers, stream=True).status == 200
    logged = line(stack, traced)
    assert logged["warmpath_reason"] == "cold"
    assert 0 <= float(logged["warmpath_ttft_ms"]) <= logged["duration_ms"] + 1


def test_of_what_was_not_decided_nothing_is_said(stack, client):
    traced = Traced()
    assert client.send("GET", "/v1/models", headers=traced.headers).status == 200
    logged = line(stack, traced)
    assert (logged["status"], logged["path"]) == (200, "/v1/models")
    assert logged["upstream"] in [pod.address for pod in stack.pods]
    assert set(decision(logged).values()) == {None}


def test_an_explanation_is_no_decision(stack, client, fresh):
    traced = Traced()
    assert client.chat(fresh(), {**traced.headers, "x-warmpath-explain": SECRET}).status == 200
    logged = line(stack, traced)
    assert (logged["status"], logged["upstream"]) == (200, None)
    assert set(decision(logged).values()) == {None}


def test_a_request_that_was_not_matched_says_so(stack, client):
    traced = Traced()
    assert client.post("/v1/chat/completions", b"{", traced.headers).status == 400
    logged = line(stack, traced)
    assert (logged["status"], logged["warmpath_reason"]) == (400, "load_only")
    assert (logged["warmpath_matched_tokens"], logged["warmpath_cached_tokens"]) == ("0", None)


def test_no_part_of_a_prompt_is_in_the_log(stack, client, fresh):
    text, traced = fresh(), Traced()
    client.chat(text, traced.headers, stream=True)
    line(stack, traced)
    assert text.split()[0] not in stack.envoy.process.log()


def test_where_envoy_does_not_trace_the_trace_context_arrives_as_it_was_sent(stack, client, fresh):
    marked, traced = mark(), Traced()
    client.chat(fresh(), {**traced.headers, MARK: marked})
    (request,) = seen(stack.pods, marked)
    assert traced.headers.items() <= request["headers"].items()
    assert line(stack, traced)["trace_id"] is None


@pytest.mark.parametrize("log_fields", [False, True])
def test_without_log_fields_nothing_is_said_of_decisions(start, fresh, log_fields):
    stack = start.stack("buffered", config={"log_fields": log_fields}, manager=merged("access-log.yaml"))
    traced = Traced()
    assert Client(stack.envoy.url).chat(fresh(), traced.headers).status == 200
    assert (line(stack, traced)["warmpath_reason"] is not None) == log_fields


def test_a_request_left_to_envoy_has_a_reason_and_no_choice(start, fresh):
    stack = start.stack("buffered", config={"log_fields": True}, manager=merged("access-log.yaml"), sidecar=False)
    traced = Traced()
    answer = Client(stack.envoy.url).chat(fresh(), traced.headers)
    logged = line(stack, traced)
    assert (logged["warmpath_reason"], logged["upstream"]) == ("fallback", answer.pod)
    assert logged["warmpath_choice"] is logged["warmpath_matched_tokens"] is logged["warmpath_predicted_ttft_ms"] is None
