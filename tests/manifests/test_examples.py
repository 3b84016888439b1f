"""deploy/examples: names that stand in several files are the same everywhere."""

import pytest
import yaml

import chart
import crd
from kustomize import render

TWO_MODELS = crd.ROOT / "deploy" / "examples" / "two-models"
VALUES = yaml.safe_load((TWO_MODELS / "values.yaml").read_text())


@pytest.fixture(scope="module")
def resources() -> list[dict]:
    return render(TWO_MODELS)


def of(resources: list[dict], kind: str) -> dict[str, dict]:
    return {r["metadata"]["name"]: r for r in resources if r["kind"] == kind}


def model(deployment: dict) -> str:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value") for variable in container["env"]}["MODEL"]


def test_each_pool_has_a_service_that_selects_its_own_pods_only(resources):
    services, deployments = of(resources, "Service"), of(resources, "Deployment")
    for pool in VALUES["pools"]:
        selector = services[pool["service"]]["spec"]["selector"].items()
        labels = {name: d["spec"]["template"]["metadata"]["labels"].items() for name, d in deployments.items()}
        assert [name for name, l in labels.items() if selector <= l] == [f"vllm-decode-{pool['name']}"]


def test_routes_lead_to_the_service_of_the_pool_that_claims_the_model(resources):
    (route,) = of(resources, "HTTPRoute").values()
    by_model = {}
    for rule in route["spec"]["rules"]:
        (match,) = rule["matches"]
        (backend,) = rule["backendRefs"]
        for header in match.get("headers", [{"name": VALUES["pluginConfig"]["model_header"], "value": ""}]):
            assert header["name"] == VALUES["pluginConfig"]["model_header"]
            by_model[header["value"]] = backend["name"]
    claimed = {model: pool["service"] for pool in VALUES["pools"] for model in pool["models"] or [""]}
    assert by_model == claimed


def test_pools_claim_what_their_pods_serve(resources):
    deployments = of(resources, "Deployment")
    for pool in VALUES["pools"]:
        if pool["models"]:
            assert [model(deployments[f"vllm-decode-{pool['name']}"])] == pool["models"]


def test_the_chart_takes_its_values_and_steers_the_cluster_of_each_service():
    made = chart.comparable(chart.render.plain(chart.helm(), "--values", TWO_MODELS / "values.yaml"))
    (filters,) = (thing for (kind, *_), thing in made.items() if kind == "EnvoyFilter")
    patches = filters["spec"]["configPatches"]
    merged = [p["match"]["cluster"]["service"] for p in patches if p["patch"]["operation"] == "MERGE" and p["applyTo"] == "CLUSTER"]
    namespace = chart.render.NAMESPACE
    assert merged == [f"{pool['service']}.{namespace}.svc.cluster.local" for pool in VALUES["pools"]]
    (wasm,) = (p["patch"]["value"] for p in patches if p["applyTo"] == "EXTENSION_CONFIG")
    plugin = wasm["typed_config"]["config"]["configuration"]["value"]
    assert (plugin["model_header"], plugin["wiring"]) == ("x-gateway-model-name", "streaming")
    assert [pool["name"] for pool in plugin["pools"]] == [pool["name"] for pool in VALUES["pools"]]
