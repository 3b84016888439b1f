"""What is generated is current, and the manifests fit together."""

import json
import re

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from stack.paths import ROOT

from monitoring.generate import PAGES, RULES, generate
from prometheus import MONITORING, documents

MANIFESTS = sorted(p.relative_to(MONITORING).as_posix() for p in MONITORING.rglob("*.yaml") if p.parent.name != "rules")
PLAIN = [path for path in MANIFESTS if "/" not in path]


def all_of(kind: str) -> list[dict]:
    return [d for path in MANIFESTS for d in documents(path) if d["kind"] == kind]


def config_maps() -> dict[str, dict[str, str]]:
    return {d["metadata"]["name"]: d["data"] for d in all_of("ConfigMap")}


@pytest.mark.parametrize("path", generate())
def test_what_is_generated_is_current(path):
    assert (MONITORING / path).read_text() == generate()[path], "run `make monitoring`"


@pytest.mark.parametrize("name", PAGES)
def test_a_dashboard_is_one_by_grafanas_own_schema(name):
    """Read by the SDK's types and written again, nothing is lost or added."""
    register_default_plugins()
    written = json.loads((MONITORING / f"dashboards/{name}.json").read_text())
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(written))) == written
    ids = [panel["id"] for panel in written["panels"]]
    assert len(set(ids)) == len(ids) > 20


def test_config_maps_carry_rules_and_dashboards_whole():
    rules = {name: (MONITORING / "rules" / name).read_text() for name in RULES}
    assert config_maps()["prometheus-rules"] == rules
    shown = {f"{name}.json": (MONITORING / f"dashboards/{name}.json").read_text() for name in PAGES}
    assert config_maps()["grafana-dashboards"] == shown
    # `kubectl apply` keeps a copy in an annotation, which Kubernetes limits to 256 KiB.
    assert sum(map(len, shown.values())) < 200_000


def test_the_operators_resource_has_the_same_rules():
    groups = [g for name in RULES for g in yaml.safe_load((MONITORING / "rules" / name).read_text())["groups"]]
    [rule] = all_of("PrometheusRule")
    assert rule["spec"]["groups"] == groups


def test_what_a_deployment_mounts_is_there():
    maps = config_maps()
    for deployment in all_of("Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        named = {v["name"]: v.get("configMap", {}).get("name") for v in spec["volumes"]}
        assert {name for name in named.values() if name} <= set(maps)
        mounted = {mount["name"] for c in spec["containers"] for mount in c["volumeMounts"]}
        assert mounted == set(named)


def test_services_reach_their_pods():
    labels = {d["metadata"]["name"]: d["spec"]["template"] for d in all_of("Deployment")}
    for service in all_of("Service"):
        template = labels[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        named = {port["name"] for c in template["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for deployment in all_of("Deployment"):
        assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]


def test_prometheus_may_look_at_pods_of_its_namespace_and_nothing_else():
    assert all_of("ClusterRole") == all_of("ClusterRoleBinding") == []
    [role] = all_of("Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    [binding], [account] = all_of("RoleBinding"), all_of("ServiceAccount")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == [account["metadata"]["name"]]


@pytest.mark.parametrize("deployment", all_of("Deployment"), ids=lambda d: d["metadata"]["name"])
def test_a_pod_has_no_more_rights_than_it_needs(deployment):
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in spec["containers"]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", container["image"]), "a pinned version"
        assert "limits" in container["resources"]


def test_samples_are_kept_for_seven_days():
    [deployment] = [d for d in all_of("Deployment") if d["metadata"]["name"] == "prometheus"]
    assert "--storage.tsdb.retention.time=7d" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_grafana_has_no_password_of_its_own():
    assert all_of("Secret") == []
    text = "".join((MONITORING / path).read_text() for path in PLAIN if path.startswith("grafana"))
    assert "admin_password" not in text
    [deployment] = [d for d in all_of("Deployment") if d["metadata"]["name"] == "grafana"]
    env = {e["name"]: e for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["GF_SECURITY_ADMIN_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"] == "grafana-admin"
    assert "org_role = Viewer" in config_maps()["grafana-config"]["grafana.ini"]


def test_each_image_is_named_in_one_place():
    text = "".join(p.read_text() for p in ROOT.glob("monitoring/**/*") if p.suffix in (".md", ".py", ".yaml"))
    for image in re.findall(r"image: (\S+)", text):
        version = image.rsplit(":", 1)[1].removeprefix("v")
        assert text.count(version) == 1


def test_every_manifest_is_named_in_the_readme():
    readme = (MONITORING / "README.md").read_text()
    assert [path for path in MANIFESTS if path not in readme] == []
