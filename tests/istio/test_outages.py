"""Parts that are away: the API server, the sidecar at the wrong time. Requests are served all the same."""

import contextlib
import time

import pytest

from mesh import steered
from stack.client import Client
from stack.load import Load
from stack.process import wait_for

# The longest waits of sidecar and istiod before another try, and time for the API server to let them in.
TRIES_AGAIN_S = 60.0


def test_a_stopped_api_server_costs_no_request(mesh, replica, client, fresh):
    mesh.steer("buffered")
    texts = [fresh() for _ in range(12)]
    turn = iter(range(10**9))
    with Load(lambda: client.chat(texts[next(turn) % len(texts)])) as load:
        with away(mesh, replica):
            wait_for("the sidecar to notice", lambda: not replica.sidecar.source()["synced"])
            load.wait(100)
            assert all(steered(answer) for answer in load.answers[-100:])
            assert replica.sidecar.states() == mesh.pods.table()
        wait_for("the sidecar in step", lambda: replica.sidecar.source()["synced"])
        load.wait(40)


@contextlib.contextmanager
def away(mesh, replica):
    """The API server is stopped, and started again; then a change reaches sidecar and Envoy."""
    mesh.cluster.server.kill()
    try:
        yield
    finally:
        mesh.cluster.start()
        pod = mesh.pods.start()
        try:
            replica.sidecar.follows(mesh.pods.table(), within=TRIES_AGAIN_S)
            known = lambda: pod.address in replica.gateway.get("/clusters")  # noqa: E731
            wait_for("Envoy to hear of a pod", known, timeout=TRIES_AGAIN_S)
        finally:
            mesh.pods.remove(pod)
            replica.sidecar.follows(mesh.pods.table())
            wait_for("Envoy to hear of its end", lambda: not known(), timeout=TRIES_AGAIN_S)


@pytest.fixture
def late(mesh, wiring):
    """A gateway whose sidecar was not there when its Envoy started."""
    mesh.steer(wiring)
    replica = mesh.replica(sidecar=False)
    yield replica
    mesh.end(replica)


def given_up(replica) -> bool:
    return replica.gateway.plugin()["@type"].endswith("rbac.v3.RBAC")


@pytest.mark.parametrize(
    ("wiring", "push"),
    [
        # Of an EnvoyFilter an annotation is no change to istiod.
        ("buffered", "an annotation"),
        ("streaming", "a change of the plugin"),
        ("buffered", "a restart of istiod"),
    ],
)
def test_a_late_sidecar_steers_after_the_next_push_and_until_then_requests_are_served(push, mesh, wiring, late, fresh):
    client = Client(late.url)
    wait_for("the agent to give up", lambda: given_up(late), timeout=60, every=0.2)
    answer = client.chat(fresh())
    assert answer.status == 200 and not answer.reason
    (said,) = [finding for finding in late.gateway.findings() if finding.good is False]
    assert "could not be fetched" in said.what

    late.start_sidecar()
    late.sidecar.follows(mesh.pods.table(), within=10)
    assert given_up(late)
    if push == "a change of the plugin":
        mesh.wire(wiring, mode="steer", debug_headers=True, placement={"spill_margin_ms": 401})
    elif push == "an annotation":
        mesh.cluster.kubectl("annotate", "wasmplugin", "-n", "llm-d", "warmpath", "--overwrite", f"pushed-at={time.time()}")
    else:
        mesh.istiod.restart()
    mesh.wait_until_steered(late, wiring)
