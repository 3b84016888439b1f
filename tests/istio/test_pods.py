"""Pods come and go: the table follows the API server, and no request fails that plain Istio would have served."""

import pytest

from stack.load import Load
from stack.process import wait_for


@pytest.fixture
def load(mesh, client, fresh):
    """Conversations that go on meanwhile, steered."""
    mesh.steer("buffered")
    texts = [fresh() for _ in range(24)]
    turn = iter(range(10**9))
    with Load(lambda: client.chat(texts[next(turn) % len(texts)])) as load:
        yield load
        load.wait(20)


@pytest.fixture
def extra(mesh):
    """A fourth pod, gone after the test."""
    pods = [mesh.pods.start()]
    yield pods
    for pod in pods:
        if pod in mesh.pods.running.values():
            mesh.pods.remove(pod)


def served_by(load: Load, pod, more: int = 40) -> bool:
    """Whether any of the next answers is that pod's."""
    before = len(load.answers)
    load.wait(more)
    return pod.address in {answer.pod for answer in load.answers[before:]}


def test_a_new_pod_gets_requests(mesh, replica, client, load, fresh):
    pod = mesh.pods.start()
    try:
        replica.sidecar.follows(mesh.pods.table())
        wait_for("a request there", lambda: client.chat(fresh(20)).pod == pod.address)
    finally:
        mesh.pods.remove(pod)
    replica.sidecar.follows(mesh.pods.table())


def test_a_draining_pod_gets_no_more_and_finishes_what_it_has(mesh, replica, load, extra):
    (pod,) = extra
    replica.sidecar.follows(mesh.pods.table())
    mesh.pods.terminate(pod)
    replica.sidecar.follows(mesh.pods.table() | {pod.address: "draining"})
    load.wait(10)
    assert not served_by(load, pod)
    mesh.pods.remove(pod)
    replica.sidecar.follows(mesh.pods.table())


def test_a_pod_that_is_not_ready_is_kept_and_not_chosen(mesh, replica, load, extra):
    (pod,) = extra
    replica.sidecar.follows(mesh.pods.table())
    mesh.pods.ready(pod, False)
    replica.sidecar.follows(mesh.pods.table() | {pod.address: "failing"})
    load.wait(10)
    assert not served_by(load, pod)
    mesh.pods.ready(pod, True)
    replica.sidecar.follows(mesh.pods.table())


def test_a_pod_that_crashes_costs_no_request_but_those_that_it_had(mesh, replica, load, extra):
    (pod,) = extra
    replica.sidecar.follows(mesh.pods.table())
    pod.process.kill()
    load.wait(40)
    mesh.pods.remove(pod)
    replica.sidecar.follows(mesh.pods.table())
    # What it was answering when it died: one for each thread of the load at the most.
    lost = [failure for failure in load.failures if failure.startswith("503")]
    assert len(lost) <= 2 and len(lost) == len(load.failures), load.failures
    load.failures.clear()


def test_a_pod_that_changes_its_address_is_followed(mesh, replica, load, extra):
    (pod,) = extra
    replica.sidecar.follows(mesh.pods.table())
    extra[:] = [mesh.pods.move(pod)]
    replica.sidecar.follows(mesh.pods.table())
    assert pod.address not in mesh.pods.table()
