"""The Helm chart against everything that says the same: istio/*.yaml, deploy/rendered, deploy/rbac, monitoring/, its own
README; and over its variants, against the CRDs and a real Envoy."""

import itertools
import json
import re

import pytest
import yaml

import crd
from accepts import accepts
from chart import CHART, comparable, helm, key, lint, nested, render
from stack.envoy import LLM_PATHS
from test_manifests import ROOT, VLLM, compose, documents, one

ISTIO = ROOT / "istio"
DEFAULTS = [*documents(ISTIO / "sidecar.yaml"), *documents(ISTIO / "envoyfilter.yaml"), *documents(ISTIO / "wasmplugin.yaml")]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
DISCOVERY = {
    "service": {"service": {"port": 8000}},
    "pods": {"pods": {"selector": "app=vllm", "port": "http@9000"}},
    "inferencePool": {"inferencePool": {"name": "vllm", "scrapePort": 9000}},
}
WRITTEN = [ISTIO / "envoyfilter.yaml", ISTIO / "streaming" / "envoyfilter.yaml", *sorted(render.RENDERED.glob("*.yaml"))]


def pool(name: str, discovery: dict, **more) -> dict:
    return {"name": name, "service": f"vllm-{name}", "port": 8000, "discovery": discovery, **more}


def rendered(**values) -> list[dict]:
    return render.plain(helm(), *(f"--set-json={name}={json.dumps(value)}" for name, value in values.items()))


def refused(**values) -> str:
    with pytest.raises(render.Refused) as error:
        rendered(**values)
    return str(error.value)


def in_the_gateway(things: list[dict]) -> dict:
    """What is merged into the pods of the gateway."""
    return nested(one(things, "ConfigMap"))["deployment"]["spec"]["template"]["spec"]


def sidecar(things: list[dict]) -> dict:
    """The sidecar's container, in whichever mode."""
    pods = [thing["spec"]["template"]["spec"]["containers"] for thing in things if thing["kind"] == "Deployment"]
    (container,) = pods[0] if pods else in_the_gateway(things)["initContainers"]
    return container


def env(things: list[dict]) -> dict[str, str]:
    return {variable["name"]: variable.get("value") for variable in sidecar(things)["env"]}


def patches(things: list[dict]) -> list[dict]:
    return one(things, "EnvoyFilter")["spec"]["configPatches"]


def patched(things: list[dict], what: str, how: str) -> list[dict]:
    return [patch["patch"]["value"] for patch in patches(things) if (patch["applyTo"], patch["patch"]["operation"]) == (what, how)]


def plugin_config(things: list[dict]) -> dict:
    for plugin in (thing for thing in things if thing["kind"] == "WasmPlugin"):
        return plugin["spec"]["pluginConfig"]
    (code,) = patched(things, "EXTENSION_CONFIG", "ADD")
    return json.loads(code["typed_config"]["config"]["configuration"]["value"])


def rights(things: list[dict]) -> set[tuple[str, str]]:
    """Namespace and resource that the sidecar's account may list and watch."""
    bound = {key(t)[1:] for t in things if t["kind"] == "RoleBinding"}
    roles = [t for t in things if t["kind"] == "Role"]
    assert bound == {key(role)[1:] for role in roles}
    return {
        (role["metadata"]["namespace"], resource)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        if rule["verbs"] == ["list", "watch"]
    }


def test_the_files_in_istio_are_the_defaults():
    assert comparable(DEFAULTS) == comparable(rendered())


def test_the_files_in_istio_observe_are_the_values_for_them():
    for by, names in {"telemetry": ["telemetry.yaml"], "envoyfilter": ["access-log.yaml", "trace-tags.yaml"]}.items():
        ours = [document for name in names for document in documents(ISTIO / "observe" / name)]
        theirs = comparable(rendered(accessLog={"by": by}, tracing={"by": by}))
        # What the defaults have as well: the wiring.
        assert comparable(ours) == {k: v for k, v in theirs.items() if k not in comparable(DEFAULTS)}


@pytest.mark.parametrize("wiring", ["buffered", "streaming"])
@pytest.mark.parametrize("asked", ["accessLog", "tracing"])
def test_who_asks_for_the_decision_in_log_or_spans_gets_it_noted(wiring, asked):
    assert plugin_config([t for t in rendered(wiring=wiring, **{asked: {"by": "envoyfilter"}}) if "-" not in key(t)[2]])["log_fields"]
    assert "log_fields" not in plugin_config(rendered(wiring=wiring))


@pytest.mark.parametrize("percent", [0, 2.5, 100])
def test_a_share_of_traces_is_asked_for_as_it_is_given(percent):
    (asked,) = one(rendered(tracing={"by": "telemetry", "samplingPercent": percent}), "Telemetry")["spec"]["tracing"]
    assert asked["randomSamplingPercentage"] == percent


def test_the_streaming_overlay_is_the_streaming_wiring():
    (ours,) = documents(ISTIO / "streaming" / "envoyfilter.yaml")
    theirs = comparable(rendered(wiring="streaming"))
    assert comparable([ours]) == {key(ours): theirs[key(ours)]}
    # Everything else stays when the overlay is applied, but for the WasmPlugin, which is deleted.
    kept = {k: v for k, v in comparable(DEFAULTS).items() if k[0] not in ("EnvoyFilter", "WasmPlugin")}
    assert {k: v for k, v in theirs.items() if k != key(ours)} == kept


@pytest.mark.parametrize("example", render.EXAMPLES, ids=lambda path: path.stem)
def test_rendered_files_are_in_step(example):
    made = render.plain(helm(), "--values", example)
    assert (render.RENDERED / example.name).read_text() == render.text(example, made), "run `make manifests`"


def test_each_example_is_rendered_and_nothing_else():
    assert {path.name for path in render.RENDERED.iterdir()} == {path.name for path in render.EXAMPLES}


def test_helm_finds_nothing_to_complain_of():
    done = lint(render.REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"wirring": "buffered"}, "wirring"),
        ({"sidecar": {"moed": "deployment"}}, "moed"),
        ({"wiring": "both"}, "'buffered', 'streaming'"),
        ({"pools": [pool("a", {})]}, "discovery"),
        ({"pools": [pool("a", {**DISCOVERY["service"], **DISCOVERY["pods"]})]}, "discovery"),
        ({"pools": [pool("a", {"service": {"prot": 8000}})]}, "prot"),
        ({"pools": []}, "pools"),
        ({"pathPrefix": "/llm/"}, "pathPrefix"),
        ({"filter": {"sha256": "abc"}}, "sha256"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"limits": {"maxRequestBytes": "4Mi"}}, "maxRequestBytes"),
        # What only templates can say.
        ({"image": {"repository": ""}}, "image.repository: where the image is"),
        ({"pluginConfig": {"wiring": "streaming"}}, "pluginConfig.wiring: the chart sets it"),
        ({"pluginConfig": {"model_header": "x-gateway-model-name"}}, "needs wiring streaming"),
        ({"pools": [pool("a", DISCOVERY["service"]), pool("a", DISCOVERY["pods"])]}, 'two are named "a"'),
        ({"podCertificates": {"enabled": True}, "sidecar": {"mode": "deployment"}}, "sidecar.mode must be gateway-pod"),
        ({"wiring": "streaming", "limits": {"maxRequestBytes": 1_500_000}}, "1948576"),
        ({"wiring": "streaming", "pluginConfig": {"limits": {"decide_at_bytes": 4_000_000}}}, "5048576"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_what_is_wrong_is_refused_by_name(values, says):
    assert says in refused(**values)


VARIANTS = list(itertools.product(("buffered", "streaming"), ("gateway-pod", "deployment"), (*DISCOVERY, "several")))


@pytest.fixture(params=VARIANTS, ids="-".join)
def variant(request) -> tuple[str, str, str, list[dict]]:
    wiring, mode, discovery = request.param
    pools = [pool(f"p{i}", DISCOVERY[kind], namespace=f"ns{i}") for i, kind in enumerate(DISCOVERY)]
    if discovery != "several":
        pools = [pool("default", DISCOVERY[discovery])]
    return wiring, mode, discovery, rendered(wiring=wiring, sidecar={"mode": mode}, pools=pools)


def test_each_variant_is_sound(variant, tmp_path):
    wiring, mode, discovery, things = variant
    schemas = crd.load()
    for thing in things:
        assert thing["apiVersion"] and key(thing)
        if schema := schemas.get((thing["apiVersion"], thing["kind"])):
            assert crd.errors(thing, schema) == [], key(thing)
    accepts(tmp_path, patches(things))
    # Each pool has a cluster that obeys, a way to find its pods, and the right to it.
    pools = len(DISCOVERY) if discovery == "several" else 1
    assert len(patched(things, "CLUSTER", "MERGE")) == pools
    options = {name: value for name, value in env(things).items() if name.startswith("WARMPATH_KUBERNETES")}
    assert len(options) == pools
    needed = {
        "WARMPATH_KUBERNETES_SERVICE": {"endpointslices"},
        "WARMPATH_KUBERNETES_PODS": {"pods"},
        "WARMPATH_KUBERNETES_INFERENCE_POOL": {"pods", "inferencepools"},
    }
    expected = {(value.split("/")[0], what) for name, value in options.items() for what in needed[name]}
    assert rights(things) == expected | {("llm-d", "endpointslices")}
    (account,) = {s["name"] for t in things if t["kind"] == "RoleBinding" for s in t["subjects"]}
    assert account == ("warmpath" if mode == "deployment" else "llm-gateway-istio")
    assert plugin_config(things).get("wiring") == ("streaming" if wiring == "streaming" else None)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_envoy_accepts_what_is_written(path, tmp_path):
    accepts(tmp_path, patches(documents(path)))


def test_envoy_refuses_what_is_wrong(tmp_path):
    wrong = patches(documents(ISTIO / "envoyfilter.yaml"))
    wrong[0]["patch"]["value"]["typed_config"]["extension_config"]["typed_config"]["max_request_byte"] = 1
    with pytest.raises(AssertionError, match="max_request_byte"):
        accepts(tmp_path, wrong)


def test_pools_are_named_alike_to_sidecar_and_plugin():
    things = rendered(pools=[pool("a", DISCOVERY["service"], models=["m", "lora-*"]), pool("b", DISCOVERY["pods"])])
    assert plugin_config(things)["pools"] == [{"name": "a", "models": ["m", "lora-*"]}, {"name": "b"}]
    assert env(things)["WARMPATH_KUBERNETES_SERVICE"] == "llm-d/vllm-a:8000=a"
    assert env(things)["WARMPATH_KUBERNETES_PODS"] == "llm-d/app=vllm:http@9000=b"
    # A single one is named nowhere: the endpoint table has then one pool, and the plugin asks for none.
    assert "pools" not in plugin_config(rendered()) and "=" not in env(rendered())["WARMPATH_KUBERNETES_SERVICE"]


def test_a_path_prefix_is_told_to_the_plugin_and_to_the_buffer():
    things = rendered(pathPrefix="/llm.v2")
    assert plugin_config(things)["path_prefix"] == "/llm.v2"
    (regex,) = re.findall(r"'regex': '(.*?)'", str(patched(things, "HTTP_FILTER", "INSERT_BEFORE")))
    regex = regex.replace("\\\\", "\\")
    assert re.match(regex, "/llm.v2/v1/completions?x=1")
    assert not re.match(regex, "/v1/completions") and not re.match(regex, "/llmXv2/v1/completions")


def test_the_buffer_holds_the_paths_that_the_tests_hold():
    assert LLM_PATHS in (ISTIO / "envoyfilter.yaml").read_text()


def test_the_limit_of_bodies_is_a_whole_number_in_all_places():
    """Helm's numbers are floats: 4194304 is 4.194304e+06 where nobody looks."""
    text = str(rendered(limits={"maxRequestBytes": 33554432}))
    assert text.count("33554432") == 2 and "e+" not in text


def test_settings_of_the_plugin_are_merged():
    config = plugin_config(rendered(pluginConfig={"placement": {"spill_ratio": 2}, "limits": {"max_index_entries": 2000000}}))
    expected = {**VALUES["pluginConfig"], "placement": {"spill_ratio": 2}, "limits": {"max_index_entries": 2000000}}
    assert config == expected


def test_a_filter_from_a_registry_is_pinned_in_both_wirings():
    for wiring in ("buffered", "streaming"):
        text = str(rendered(wiring=wiring, filter={"url": "oci://r.example/warmpath-filter:1", "sha256": "a" * 64}))
        assert "oci://r.example/warmpath-filter:1" in text and "a" * 64 in text
        assert "9464/filter.wasm" not in text


def test_in_a_deployment_envoy_looks_elsewhere_for_filter_and_feed():
    things = rendered(sidecar={"mode": "deployment"})
    (cluster,) = patched(things, "CLUSTER", "ADD")
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    services = {t["metadata"]["name"]: t for t in things if t["kind"] == "Service"}
    assert (cluster["type"], cluster["dns_lookup_family"]) == ("STRICT_DNS", "ALL")
    assert address["address"].split(".")[:2] == ["warmpath", "llm-d"]
    assert address["port_value"] in [port["port"] for port in services["warmpath"]["spec"]["ports"]]
    assert one(things, "WasmPlugin")["spec"]["url"] == f"http://{address['address']}:9464/filter.wasm"
    assert env(things)["WARMPATH_FEED_LISTEN"] == "0.0.0.0:9465"
    # It is there all the same: a Gateway may name it.
    assert in_the_gateway(things) == {}
    pods = one(things, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert all(service["spec"]["selector"].items() <= pods for service in services.values())
    policy = one(things, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pods
    (feed,) = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] == 9465]
    assert feed["from"][0]["podSelector"]["matchLabels"] == {"gateway.networking.k8s.io/gateway-name": "llm-gateway"}


def test_in_the_gateway_pod_the_feed_stays_on_loopback():
    assert "WARMPATH_FEED_LISTEN" not in env(rendered())
    assert 9465 not in [port["containerPort"] for port in sidecar(rendered())["ports"]]


@pytest.mark.parametrize("mode", ["gateway-pod", "deployment"])
def test_the_sidecar_needs_no_privileges(mode):
    container = sidecar(rendered(sidecar={"mode": mode}))
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert {"startupProbe", "livenessProbe", "resources"} <= container.keys()
    # In the gateway pod it would take the gateway out of service.
    assert ("readinessProbe" in container) == (mode == "deployment")


def test_a_policy_for_peers_closes_no_other_port():
    (policy,) = [t["spec"] for t in rendered(peers={"networkPolicy": True}) if t["kind"] == "NetworkPolicy"]
    peers, others = policy["ingress"]
    assert peers["ports"] == [{"protocol": "TCP", "port": 9466}] and peers["from"]
    assert "from" not in others
    open_to_all = {p for port in others["ports"] if port["protocol"] == "TCP" for p in range(port["port"], port["endPort"] + 1)}
    assert set(range(1, 65536)) - open_to_all == {9466}
    assert {port["protocol"] for port in others["ports"]} == {"TCP", "UDP", "SCTP"}


PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@pytest.mark.parametrize("peers", [True, False])
def test_a_policy_for_pages_lets_in_who_is_named_and_closes_no_other_port(peers):
    things = rendered(peers={"networkPolicy": peers}, sidecar={"httpFrom": [PROMETHEUS]})
    (policy,) = [t["spec"] for t in things if t["kind"] == "NetworkPolicy"]
    (pages,) = [rule for rule in policy["ingress"] if rule["ports"] == [{"protocol": "TCP", "port": 9464}]]
    assert pages["from"] == [PROMETHEUS]
    (others,) = [rule for rule in policy["ingress"] if "from" not in rule]
    ranges = [(p["port"], p.get("endPort", p["port"])) for p in others["ports"] if p["protocol"] == "TCP"]
    open_to_all = {port for first, last in ranges for port in range(first, last + 1)}
    assert set(range(1, 65536)) - open_to_all == ({9464, 9466} if peers else {9464})


def test_in_a_deployment_pages_are_for_the_gateway_and_who_is_named():
    things = rendered(sidecar={"mode": "deployment", "httpFrom": [PROMETHEUS]})
    rules = {rule["ports"][0]["port"]: rule["from"] for rule in one(things, "NetworkPolicy")["spec"]["ingress"]}
    gateway = {"podSelector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "llm-gateway"}}}
    assert rules[9464] == [gateway, PROMETHEUS] and rules[9465] == [gateway]
    assert "/sidecar/httpFrom/0" in refused(sidecar={"httpFrom": ["everybody"]})


def test_without_peers_nothing_of_them_is_left():
    assert "peers" not in str(rendered(peers={"enabled": False})).lower()


def test_certificates_are_written_and_read_in_one_folder():
    pod = in_the_gateway(rendered(podCertificates={"enabled": True}))
    (proxy,), (ours,), (volume,) = pod["containers"], pod["initContainers"], pod["volumes"]
    folder = {v["name"]: v["value"] for v in ours["env"]}["WARMPATH_POD_CERTIFICATES"]
    assert proxy["name"] == "istio-proxy" and proxy["env"] == [{"name": "OUTPUT_CERTS", "value": folder}]
    for container in (proxy, ours):
        (mount,) = container["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], folder)


def test_what_else_the_gateway_needs_goes_into_its_configmap():
    options = {
        "deployment": {"spec": {"replicas": 3, "template": {"spec": {"initContainers": [{"name": "mine"}], "priorityClassName": "high"}}}},
        "horizontalPodAutoscaler": {"spec": {"minReplicas": 2, "maxReplicas": 5}},
    }
    made = nested(one(rendered(gateway={"options": options}), "ConfigMap"))
    assert made["horizontalPodAutoscaler"] == options["horizontalPodAutoscaler"]
    assert made["deployment"]["spec"]["replicas"] == 3
    pod = made["deployment"]["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "high"
    assert [container["name"] for container in pod["initContainers"]] == ["warmpath-sidecar", "mine"]


def test_the_sidecar_knows_each_variable_that_is_set():
    known = set(re.findall(r'env = "(WARMPATH_\w+)"', (ROOT / "metrics-sidecar" / "src" / "cli.rs").read_text()))
    pools = [pool(kind.lower(), how) for kind, how in DISCOVERY.items()]
    everything = {"pools": pools, "peers": {"tokenSecret": {"name": "s"}}}
    beside = rendered(podCertificates={"enabled": True}, **everything)
    alone = rendered(sidecar={"mode": "deployment", "logFormat": "json"}, **everything)
    used = env(beside).keys() | env(alone).keys()
    assert len(used) >= 10 and used <= known


def test_own_variables_win():
    things = rendered(sidecar={"extraEnv": [{"name": "WARMPATH_HTTP_LISTEN", "value": "[::]:9464"}, {"name": "RUST_LOG", "value": "debug"}]})
    names = [variable["name"] for variable in sidecar(things)["env"]]
    assert len(names) == len(set(names))
    assert env(things)["WARMPATH_HTTP_LISTEN"] == "[::]:9464" and env(things)["RUST_LOG"] == "debug"


def test_the_gateway_that_it_makes_is_the_one_in_deploy():
    ours, theirs = one(rendered(gateway={"create": True}), "Gateway"), one(compose(VLLM), "Gateway")
    del ours["spec"]["infrastructure"]["labels"]
    assert ours["spec"] == theirs["spec"] and key(ours) == key(theirs)


@pytest.mark.parametrize(("kind", "folder"), [("service", "service"), ("pods", "pods"), ("inferencePool", "inference-pool")])
def test_the_roles_are_those_of_deploy_rbac(kind, folder):
    made = comparable(rendered(pools=[pool("default", DISCOVERY[kind])]))
    wanted = comparable(compose(ROOT / "deploy" / "rbac" / folder))
    assert wanted == {name: made[name] for name in wanted}


def test_the_pod_monitors_are_those_of_monitoring():
    theirs = {d["metadata"]["name"]: d["spec"] for d in documents(ROOT / "monitoring" / "operator" / "monitors.yaml")}
    ours = {t["metadata"]["name"]: t["spec"] for t in rendered(podMonitor={"enabled": True}) if t["kind"] == "PodMonitor"}
    assert set(ours) == {"warmpath-gateway", "warmpath-sidecar"}
    assert ours == {name: theirs[name] for name in ours}


def test_a_port_that_is_let_in_in_plain_text():
    pools = [pool("a", DISCOVERY["service"]), pool("b", DISCOVERY["pods"]), pool("c", DISCOVERY["pods"], namespace="other")]
    made = [t for t in rendered(pools=pools, peerAuthentication={"metricsPortException": True}) if t["kind"] == "PeerAuthentication"]
    assert sorted(t["metadata"]["namespace"] for t in made) == ["llm-d", "other"]
    labels = one(compose(VLLM), "Deployment")["spec"]["template"]["metadata"]["labels"]
    for thing in made:
        assert thing["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert thing["spec"]["portLevelMtls"] == {"8000": {"mode": "PERMISSIVE"}}


def test_all_is_released_under_one_version():
    (cargo,) = re.findall(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), flags=re.MULTILINE)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == cargo
    assert sidecar(DEFAULTS)["image"] == f"REGISTRY/warmpath:{cargo}"


def leaves(values: dict, above: str = "") -> set[str]:
    """Paths of settings. What a user fills in as a whole (lists, labels, settings of others) is one."""
    found = set()
    for name, value in values.items():
        path = f"{above}{name}"
        whole = path in ("pluginConfig", "sidecar.resources", "peerAuthentication.selector") or path.endswith(("abels", "options"))
        found |= leaves(value, f"{path}.") if isinstance(value, dict) and value and not whole else {path}
    return found


def test_the_readme_has_all_values():
    text = (CHART / "README.md").read_text()
    table = set(re.findall(r"^\| `([\w.]+)`", text.split("## Values")[1], flags=re.MULTILINE))
    inside = {"pools[].name"} | {f"pools[].{name}" for name in pool("x", {}, namespace="", models=[])}
    assert set(re.findall(r"^\| `(pools\[\]\.\w+)", text, flags=re.MULTILINE)) == inside
    assert table == leaves(VALUES) - {"pools"}


def test_the_schema_knows_each_value_and_no_other():
    def paths(schema: dict, above: str = "") -> set[str]:
        found = set()
        for name, part in schema.get("properties", {}).items():
            found |= paths(part, f"{above}{name}.") if "properties" in part else {f"{above}{name}"}
        return found

    schema = json.loads((CHART / "values.schema.json").read_text())
    known = {path for path in paths(schema) if not path.startswith("gateway.options.")} - {"global"}
    assert known == leaves(VALUES) - {"gateway.options"}
