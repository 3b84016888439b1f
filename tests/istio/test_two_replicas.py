"""Two replicas of a gateway, each with its sidecar, share what they route."""

import pytest

from stack.client import Client
from stack.process import wait_for

SECRET = "open sesame 1234"


@pytest.fixture
def other(mesh):
    """A second replica beside the one of all tests."""
    mesh.steer("buffered", explain_secret=SECRET)
    replica = mesh.replica()
    mesh.wait_until_steered(replica, "buffered")
    yield replica
    mesh.end(replica)


@pytest.mark.every_snapshot
def test_what_one_replica_routed_is_warm_for_the_other(mesh, replica, other, fresh):
    for one in (replica, other):
        wait_for("the peer", lambda one=one: one.sidecar.metric("warmpath_sidecar_peers_connected") == 1)
        wait_for("the secret in force", lambda one=one: explained(one, "Are you there?"))
    for here, there in ((replica, other), (other, replica)):
        text = fresh()
        first = Client(here.url).chat(text)
        assert first.reason == "cold"
        wait_for("the other to hear of it", lambda there=there, text=text: set(explained(there, text)) == {"warm"})
        again = Client(there.url).chat(text)
        assert (again.pod, again.reason) == (first.pod, "warm")
        assert again.cached > 0


def explained(replica, text: str) -> list[str]:
    """The reason by the word of each of the gateway's workers (a connection goes to any of them); empty if one does
    not know the secret."""
    answers = [Client(replica.url).explain(text, SECRET) for _ in range(8)]
    known = all(a.headers.get("x-warmpath-explained") == "1" for a in answers)
    return [a.json()["reason"] for a in answers] if known else []


def test_a_replica_that_ends_leaves_the_others_peers(mesh, replica, fresh):
    mesh.steer("buffered")
    other = mesh.replica()
    try:
        wait_for("the peer", lambda: replica.sidecar.metric("warmpath_sidecar_peers_connected") == 1)
    finally:
        mesh.end(other)
    wait_for("its end", lambda: replica.sidecar.metric("warmpath_sidecar_peers_found") == 0)
    assert Client(replica.url).chat(fresh()).status == 200
