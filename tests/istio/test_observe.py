"""Access logs and spans with the decision, as istio/observe asks Istio for them."""

import json
from collections.abc import Iterator

import pytest
import yaml

from mesh import documents
from stack import network
from stack.client import Answer
from stack.cluster import NAMESPACE, Pods
from stack.collector import Collector, Span
from stack.observe import FIELDS, FOLDER, Traced
from stack.process import wait_for
from endpoints import publish

(PROVIDER,) = [
    provider["opentelemetry"]
    for provider in yaml.safe_load((FOLDER / "istiod-values.yaml").read_text())["meshConfig"]["extensionProviders"]
    if "opentelemetry" in provider
]
ADDRESS = network.pod_address(9_000)


@pytest.fixture(scope="session")
def collector(mesh) -> Iterator[Collector]:
    """Behind the Service that the provider names, as a pod of it."""
    name, namespace = PROVIDER["service"].split(".")[:2]
    assert namespace == NAMESPACE
    ports = [{"name": "http-otlp", "port": PROVIDER["port"], "protocol": "TCP"}]
    service = {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}}
    path = f"/api/v1/namespaces/{NAMESPACE}/services"
    mesh.cluster.call("POST", path, service)
    pods = Pods(mesh.cluster, name)
    pods.create("0", ADDRESS)
    publish(mesh.cluster, name)
    running = Collector(ADDRESS, PROVIDER["port"])
    yield running
    running.stop()
    pods.remove("0")
    mesh.cluster.call("DELETE", f"{path}/{name}")


@pytest.fixture
def noted(mesh, wiring) -> Iterator[None]:
    """The plugin says what it decides. At the end all is as it was."""
    mesh.steer(wiring, log_fields=True)
    yield
    for name in ("telemetry.yaml", "access-log.yaml", "trace-tags.yaml"):
        mesh.cluster.kubectl("delete", "--ignore-not-found", "-f", FOLDER / name)
    mesh.steer(wiring)


def manager(replica) -> str:
    """What the gateway's listeners run with. Those that drain still show what was before."""
    (listeners,) = [part for part in replica.gateway.dump()["configs"] if "Listeners" in part["@type"]]
    return json.dumps([listener.get("active_state") for listener in listeners["dynamic_listeners"]])


def lines(replica) -> list[dict]:
    """Of the access log, between the agent's own."""
    log = replica.gateway.process.log().splitlines()
    return [json.loads(line) for line in log if line.startswith("{") and "warmpath_reason" in line]


def line(replica, fits) -> dict:
    def found() -> list[dict]:
        return [line for line in lines(replica) if fits(line)]

    (only,) = wait_for("the line", found)
    return only


def decided(answer: Answer, spelt: str) -> dict:
    """The decision by the debug headers, under the names of log or span."""
    told = {"reason": "reason", "choice": "choice", "prompt_tokens": "prompt-tokens", "matched_tokens": "matched-tokens"}
    told = {field: answer.headers[f"x-warmpath-{header}"] for field, header in told.items()}
    return {spelt + field: value for field, value in {**told, "cached_tokens": str(answer.cached)}.items()}


def gateways_spans(collector: Collector, traced: Traced) -> tuple[Span, Span]:
    """Of the request, below the client's, and of what the pod was asked, below that."""
    request = collector.span("the request's span", lambda span: span.parent == traced.span)
    return request, collector.span("the span of the pod's request", lambda span: span.parent == request.id)


@pytest.mark.every_snapshot
def test_telemetry_puts_the_decision_into_log_and_spans(mesh, replica, client, fresh, collector, noted):
    mesh.apply("-f", FOLDER / "telemetry.yaml")
    wait_for("log and tags", lambda: "warmpath_reason" in manager(replica) and "warmpath.reason" in manager(replica))
    text = fresh()
    for reason in ("cold", "warm"):
        traced = Traced()
        answer = client.chat(text, traced.headers)
        assert answer.reason == reason
        logged = line(replica, lambda line: line["trace_id"] == traced.trace)
        assert decided(answer, "warmpath_").items() <= logged.items()
        assert (logged["status"], logged["upstream"]) == (200, answer.headers["x-warmpath-endpoint"])
        request, asked = gateways_spans(collector, traced)
        assert (request.trace, request.state) == (asked.trace, asked.state) == (traced.trace, "vendor=1")
        assert decided(answer, "warmpath.").items() <= request.attributes.items()
        # It ends before the filter has read the answer to its end.
        assert asked.attributes["warmpath.choice"] == answer.headers["x-warmpath-choice"]
    assert int(logged["warmpath_cached_tokens"]) > 0
    undecided = Traced()
    client.send("GET", "/v1/models", headers=undecided.headers)
    logged = line(replica, lambda line: line["trace_id"] == undecided.trace)
    assert {logged[f"warmpath_{field}"] for field in FIELDS} == {None}


def test_an_envoyfilter_alone_logs_the_decision(mesh, replica, client, wiring, fresh, noted):
    mesh.apply("-f", FOLDER / "access-log.yaml")
    wait_for("the log", lambda: "warmpath_reason" in manager(replica))
    traced = Traced()
    answer = client.chat(fresh(), traced.headers)
    # The gateway does not trace: the header is the client's.
    logged = line(replica, lambda line: line["traceparent"] == traced.parent)
    assert decided(answer, "warmpath_").items() <= logged.items()
    mesh.wire(wiring, mode="steer", debug_headers=True)
    forgotten = "access log or spans ask for its decisions, it notes none"
    wait_for("the check", lambda: [f for f in replica.gateway.findings() if forgotten in f.what])
    assert [f.todo for f in replica.gateway.findings() if f.good is False] == ["set `log_fields: true`"]
    mesh.cluster.kubectl("delete", "-f", FOLDER / "access-log.yaml")
    wait_for("no log", lambda: "warmpath_reason" not in manager(replica))


def test_an_envoyfilter_adds_tags_to_what_is_traced_already(mesh, replica, client, fresh, collector, noted):
    (telemetry,) = documents(FOLDER / "telemetry.yaml")
    del telemetry["spec"]["accessLogging"]
    del telemetry["spec"]["tracing"][0]["customTags"]
    mesh.apply_resources(telemetry)
    mesh.apply("-f", FOLDER / "trace-tags.yaml")
    wait_for("tags", lambda: "warmpath.reason" in manager(replica) and PROVIDER["service"] in manager(replica))
    traced = Traced()
    answer = client.chat(fresh(), traced.headers)
    request, _ = gateways_spans(collector, traced)
    assert decided(answer, "warmpath.").items() <= request.attributes.items()
