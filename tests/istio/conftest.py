"""A real Istio in a network of its own: API server, istiod, pilot-agent, Envoy, sidecar, simulated pods.

`make test-istio`. One mesh a snapshot of Istio and session, with one replica of the gateway; tests leave both as they
found them. Tests run on the newest snapshot, those marked `every_snapshot` on all.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh import Mesh
from replica import GatewayReplica
from stack import network
from stack.client import Client
from istiod import Release, tool

SNAPSHOTS = ("2026-08", "2026-04")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "every_snapshot: runs on all snapshots of Istio, not only the newest")


def pytest_generate_tests(metafunc) -> None:
    if "mesh" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_snapshot")
        metafunc.parametrize("mesh", SNAPSHOTS if every else SNAPSHOTS[:1], indirect=True, scope="session")


@pytest.fixture(scope="session")
def tools(request) -> dict[str, object]:
    """Programs by name, releases by snapshot."""
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    wanted = sorted({call.params["mesh"] for call in calls if call and "mesh" in call.params})
    # Before the network is left: the first time they are downloaded and built.
    releases = {snapshot: Release.build(snapshot) for snapshot in wanted}
    built = {"kubernetes": Path(tool("kube-apiserver")), "crane": Path(tool("crane")), **releases}
    try:
        network.enter()
    except network.NotPermitted as error:
        pytest.skip(f"no namespace to run Istio in: {error}")
    return built


@pytest.fixture(scope="session")
def mesh(request, tools, tmp_path_factory) -> Iterator[Mesh]:
    with ExitStack() as ends:
        mesh = Mesh(tmp_path_factory.mktemp(f"istio-{request.param}"), tools[request.param], tools["kubernetes"])
        ends.callback(mesh.stop)
        mesh.wire("buffered", mode="steer", debug_headers=True)
        mesh.replica()
        yield mesh


@pytest.fixture
def replica(mesh: Mesh) -> GatewayReplica:
    return mesh.replicas[0]


@pytest.fixture(params=["buffered", "streaming"])
def wiring(request, mesh: Mesh) -> str:
    mesh.steer(request.param)
    return request.param


@pytest.fixture
def client(replica: GatewayReplica) -> Client:
    return Client(replica.url)
