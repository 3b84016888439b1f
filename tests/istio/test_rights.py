"""The sidecar reads the API server as the gateway's ServiceAccount, with the Roles that users apply and no more."""

import pytest

from mesh import ISTIO, documents, steered
from stack.process import wait_for

ROLES = [resource for resource in documents(ISTIO / "sidecar.yaml") if resource["kind"] == "Role"]


def test_the_gateways_account_may_read_slices_and_nothing_else(mesh):
    may = lambda what: mesh.cluster.kubectl(  # noqa: E731
        "auth", "can-i", *what, "-n", "llm-d", "--as", "system:serviceaccount:llm-d:llm-gateway-istio", check=False
    ).strip()
    slices = "endpointslices.discovery.k8s.io"
    assert (may(("list", slices)), may(("watch", slices))) == ("yes", "yes")
    for what in (("get", slices), ("create", slices), ("list", "pods"), ("get", "secrets"), ("list", "configmaps")):
        assert may(what) == "no", what


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_missing_right_is_named_and_costs_no_request(verb, mesh, replica, client, fresh):
    mesh.steer("buffered")
    for role in ROLES:
        rules = [{**rule, "verbs": [v for v in rule["verbs"] if v != verb]} for rule in role["rules"]]
        mesh.apply_resources({**role, "rules": rules})
    try:
        replica.restart_sidecar()
        wanted = f'cannot {verb} resource "endpointslices"'
        error = wait_for("the error", lambda: (e := replica.sidecar.source()["error"] or "") and wanted in e and e)
        assert 'User "system:serviceaccount:llm-d:llm-gateway-istio"' in error and "apply the Role" in error
        # The filter goes on with the table that it has.
        assert steered(client.chat(fresh()))
    finally:
        mesh.apply_resources(*ROLES)
    replica.sidecar.follows(mesh.pods.table(), within=15)
    wait_for("the source in step", lambda: replica.sidecar.source()["synced"], timeout=15)
