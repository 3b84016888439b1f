"""A gateway that traces: the client's trace goes on, and the gateway's span says what was decided."""

from collections.abc import Iterator

import pytest
from conftest import ROOMY, assert_sound
from stack.client import Client
from stack.collector import PATH, Collector, Span
from stack.observe import FIELDS, Traced, merged
from stack.stack import Stack
from wire import MARK, mark, seen


def tracer(collector: Collector, percent: float = 100) -> dict:
    """Tracing as Istio switches it on for an OpenTelemetry provider, with what trace-tags.yaml merges into it."""
    service = {"http_uri": {"uri": f"http://{collector.address}{PATH}", "cluster": "collector", "timeout": "5s"}}
    provider = {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "service_name": "gateway",
            "http_service": service,
        },
    }
    tracing = {"provider": provider, "random_sampling": {"value": percent}}
    return {"tracing": {**tracing, **merged("trace-tags.yaml")["tracing"]}}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def stack(wiring: str, collector: Collector, tmp_path_factory) -> Iterator[Stack]:
    options = {"config": {"log_fields": True}, "manager": tracer(collector), "clusters": {"collector": collector.address}}
    with Stack(tmp_path_factory.mktemp(wiring), wiring, pod_options=ROOMY, **options) as running:
        yield running
        assert_sound(running.envoy)


def span_of(collector: Collector, traced: Traced) -> Span:
    return collector.span("the gateway's span", lambda span: span.trace == traced.trace)


def decision(span: Span) -> dict:
    return {name: span.attributes.get(f"warmpath.{name}") for name in FIELDS}


def test_the_gateways_span_is_a_child_of_the_clients_and_the_pods_of_the_gateways(stack, client, collector, fresh):
    marked, traced = mark(), Traced()
    client.chat(fresh(), {**traced.headers, MARK: marked})
    span = span_of(collector, traced)
    assert (span.parent, span.state) == (traced.span, "vendor=1")
    (request,) = seen(stack.pods, marked)
    assert request["headers"]["traceparent"] == f"00-{traced.trace}-{span.id}-01"
    assert request["headers"]["tracestate"] == "vendor=1"


def test_the_span_says_what_was_decided_and_what_came_of_it(client, collector, fresh):
    text = fresh()
    for reason in ("cold", "warm"):
        traced = Traced()
        answer = client.chat(text, traced.headers)
        assert answer.reason == reason
        span = span_of(collector, traced)
        assert decision(span) == {
            **answer.decision,
            # Known at the end of the answer only: tags are read when the span ends.
            "cached_tokens": str(answer.cached),
            "ttft_ms": None,
        }
    assert int(decision(span)["cached_tokens"]) > 0


def test_the_span_of_a_stream_has_the_time_of_its_first_token(client, collector, fresh):
    traced = Traced()
    client.chat(fresh(), traced.headers, stream=True)
    assert float(decision(span_of(collector, traced))["ttft_ms"]) >= 0


def test_what_was_not_decided_has_a_span_without_those_attributes(client, collector):
    traced = Traced()
    client.send("GET", "/v1/models", headers=traced.headers)
    span = span_of(collector, traced)
    assert span.attributes["http.status_code"] == "200"
    assert [name for name in span.attributes if name.startswith("warmpath")] == []


def test_no_part_of_a_prompt_is_in_a_span(client, collector, fresh):
    text, traced = fresh(), Traced()
    client.chat(text, traced.headers, stream=True)
    assert text.split()[0] not in str(span_of(collector, traced))


def test_a_trace_that_is_not_sampled_stays_so(stack, client, collector, fresh):
    marked, quiet, loud = mark(), Traced(sampled=False), Traced()
    client.chat(fresh(), {**quiet.headers, MARK: marked})
    client.chat(fresh(), loud.headers)
    span_of(collector, loud)
    assert [span for span in collector.spans if span.trace == quiet.trace] == []
    (request,) = seen(stack.pods, marked)
    version, trace, _, flags = request["headers"]["traceparent"].split("-")
    assert (trace, flags) == (quiet.trace, "00")


def test_below_a_hundred_percent_traces_that_clients_sample_may_end_here(start, collector, fresh):
    """Why telemetry.yaml asks for 100."""
    clusters = {"collector": collector.address}
    stack = start.stack("buffered", manager=tracer(collector, percent=0), clusters=clusters)
    marked = mark()
    Client(stack.envoy.url).chat(fresh(), {**Traced().headers, MARK: marked})
    (request,) = seen(stack.pods, marked)
    assert request["headers"]["traceparent"].endswith("-00")
