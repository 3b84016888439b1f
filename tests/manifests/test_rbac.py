"""Who may read what: the Roles in deploy/rbac, and whom they are for. What they suffice for: tests/kubernetes."""

import re

import pytest

from test_manifests import ROOT, VLLM, compose, one

RBAC = ROOT / "deploy" / "rbac"
SOURCES = sorted(path.name for path in RBAC.iterdir())


@pytest.mark.parametrize("source", SOURCES)
def test_a_role_reads_and_nothing_else(source):
    role = one(compose(RBAC / source), "Role")
    assert role["rules"]
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"} and rule["verbs"] == ["list", "watch"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_role_is_bound_to_the_gateways_account(source):
    resources = compose(RBAC / source)
    role, binding = one(resources, "Role"), one(resources, "RoleBinding")
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == f"warmpath-{source}"
    gateway = one(compose(VLLM), "Gateway")
    (subject,) = binding["subjects"]
    # Istio names the account after Gateway and GatewayClass.
    assert subject["name"] == f"{gateway['metadata']['name']}-{gateway['spec']['gatewayClassName']}"
    namespaces = {role["metadata"]["namespace"], binding["metadata"]["namespace"], subject["namespace"]}
    assert namespaces == {gateway["metadata"]["namespace"]}


def test_each_kubernetes_option_has_a_role():
    cli = (ROOT / "metrics-sidecar" / "src" / "cli.rs").read_text()
    options = {name.replace("_", "-") for name in re.findall(r"pub kubernetes_(\w+):", cli)}
    assert options == set(SOURCES)


def test_the_readmes_service_is_the_one_that_is_deployed():
    service = one(compose(VLLM), "Service")
    (port,) = service["spec"]["ports"]
    wanted = f"{service['metadata']['namespace']}/{service['metadata']['name']}:{port['targetPort']}"
    for file in ("README.md", "istio/README.md", "docs/configuration.md"):
        assert wanted in (ROOT / file).read_text(), file
