"""The sidecar works with exactly the Roles in deploy/rbac, and says what is missing where they lack something."""

import pytest
import yaml

from stack.paths import ROOT
from stack.process import wait_for
from test_sources import SOURCES, Told

RBAC = ROOT / "deploy" / "rbac"
RULES = [
    (source, rule, verb)
    for source in SOURCES
    for rule in range(len(yaml.safe_load((RBAC / source / "role.yaml").read_text())["rules"]))
    for verb in ("list", "watch")
]


@pytest.fixture
def apply(cluster):
    """Applies a Role as users do; it is gone after the test."""
    applied = []

    def apply(source: str) -> None:
        cluster.kubectl("apply", "-k", RBAC / source)
        applied.append(source)

    yield apply
    for source in applied:
        cluster.kubectl("delete", "-k", RBAC / source, "--ignore-not-found")


def role(source: str) -> str:
    return f"/apis/rbac.authorization.k8s.io/v1/namespaces/llm-d/roles/warmpath-{source}"


@pytest.mark.parametrize("source", SOURCES)
def test_the_role_is_enough(source, cluster, apply, pods, start, ip):
    apply(source)
    told = Told(source, pods)
    pod = start.pod(ip())
    here = pod.address.split(":")[0]
    told.say(here, "ready")
    sidecar = start.sidecar(*told.option(), token=cluster.token())
    sidecar.follows({pod.address: "ready"}, within=15)
    assert sidecar.source()["synced"]
    told.say(here, "terminating")
    sidecar.follows({pod.address: "draining"})


def test_in_a_pod_the_service_account_is_used(cluster, apply, pods, start, ip):
    apply("service")
    pod = start.pod(ip())
    pods.slice("a", {pod.address.split(":")[0]: "ready"})
    sidecar = start.sidecar_in_a_pod("--kubernetes-service", f"llm-d/{pods.app}:8000", token=cluster.token())
    sidecar.follows({pod.address: "ready"}, within=15)


@pytest.mark.parametrize(("source", "rule", "verb"), RULES)
def test_a_missing_right_is_named(source, rule, verb, cluster, apply, pods, start, ip):
    apply(source)
    rules = cluster.call("GET", role(source))["rules"]
    (resource,) = rules[rule]["resources"]
    rules[rule]["verbs"].remove(verb)
    cluster.call("PATCH", role(source), {"rules": rules})
    told = Told(source, pods)
    pod = start.pod(ip())
    told.say(pod.address.split(":")[0], "ready")
    sidecar = start.sidecar(*told.option(), token=cluster.token())

    def said() -> str | None:
        error = sidecar.source()["error"] or ""
        # The API server takes a moment to hear of the Role: until then it refuses everything.
        return error if f'cannot {verb} resource "{resource}"' in error else None

    error = wait_for("the error", said, timeout=15)
    assert 'User "system:serviceaccount:llm-d:llm-gateway-istio"' in error
    assert f"in namespace llm-d are needed: apply the Role in deploy/rbac/{source}" in error
    assert error in sidecar.log().replace('\\"', '"')
    assert sidecar.metric("warmpath_sidecar_discovery_synced") == 0

    apply(source)
    sidecar.follows({pod.address: "ready"}, within=15)
    wait_for("the source in step", lambda: sidecar.source()["synced"], timeout=15)


def test_without_crds_the_error_says_so(cluster, apply, pods, start):
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferencepools.inference.networking.k8s.io"
    apply("inference-pool")
    cluster.call("DELETE", crd)
    try:
        sidecar = start.sidecar("--kubernetes-inference-pool", f"llm-d/{pods.app}", token=cluster.token())
        error = wait_for("the error", lambda: "CRD" in (sidecar.source()["error"] or "") and sidecar.source()["error"])
        assert "inferencepools.inference.networking.k8s.io" in error
    finally:
        wait_for("the CRD's end", lambda: is_gone(cluster, crd))
        cluster.prepare_pools()


def is_gone(cluster, path: str) -> bool:
    try:
        cluster.call("GET", path)
    except OSError:
        return True
    return False
