"""`warmpath validate` through a gateway that Istio made: it passes, and fails when routing is broken on purpose."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from mesh import ISTIO, steered
from stack.client import Client
from stack.paths import ROOT
from stack.process import wait_for

SMALL = "--prompts 6 --rounds 3 --sessions 3 --turns 3 --controls 9 --prompt-tokens 2000 --answer-tokens 4".split()
# A cold prompt takes half a second: far more than a busy machine adds to a warm one.
SLOW = {"kv_tokens": 2_000_000, "prefill_tokens_per_s": 4000, "step_ms": 2}


@pytest.fixture(scope="module")
def slow_pods(mesh) -> Iterator[None]:
    """Pods that take their time in the place of those that answer at once."""

    def replace(**options) -> None:
        for pod in list(mesh.pods.running.values()):
            mesh.pods.remove(pod)
        for _ in range(3):
            mesh.pods.start(**options)

    replace(**SLOW)
    yield
    replace()


def validate(replica) -> subprocess.CompletedProcess:
    """As `make test GATEWAY_URL=…` calls it."""
    env = {**os.environ, "GATEWAY_URL": replica.url, "MODEL": "sim"}
    command = [ROOT / "deploy" / "validate.sh", "--sidecar", f"http://{replica.address}:9464", *SMALL]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)


def test_it_passes_in_both_wirings(mesh, slow_pods, wiring, replica):
    ran = validate(replica)
    assert ran.returncode == 0 and ran.stdout.endswith("\nPASSED\n"), ran.stdout + ran.stderr


def test_it_fails_by_the_hit_ratio_when_the_plugin_is_gone(mesh, slow_pods, replica):
    mesh.steer("buffered")
    client = Client(replica.url)
    mesh.cluster.kubectl("delete", "-f", ISTIO / "wasmplugin.yaml")
    try:
        wait_for("the plugin's end", lambda: not any(steered(client.chat("Are you there?")) for _ in range(8)))
        ran = validate(replica)
        assert ran.returncode == 1, ran.stdout + ran.stderr
        assert "FAIL  hit ratio" in ran.stdout and "FAIL  failed requests" not in ran.stdout, ran.stdout
    finally:
        mesh.steer("buffered")
