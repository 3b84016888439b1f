"""The files of istio/observe say one thing: what is logged and what stands in spans is the same whichever way it is
asked for, Envoy takes it, and docs/logs-and-traces.md explains each field."""

import re

import yaml

from accepts import accepts
from stack.observe import FIELDS, FOLDER, merged
from test_manifests import ROOT, documents

PAGE = (ROOT / "docs/logs-and-traces.md").read_text()
LOGGED = merged("access-log.yaml")["access_log"][0]["typed_config"]["log_format"]["json_format"]


def tags() -> dict[str, str]:
    return {tag["tag"]: tag["value"] for tag in merged("trace-tags.yaml")["tracing"]["custom_tags"]}


def state(field: str) -> str:
    return f"%FILTER_STATE(wasm.warmpath.{field}:PLAIN)%"


def provider(kind: str) -> dict:
    values = yaml.safe_load((FOLDER / "istiod-values.yaml").read_text())
    (found,) = [p for p in values["meshConfig"]["extensionProviders"] if kind in p]
    return found


def test_the_mesh_logs_what_a_gateway_alone_logs():
    assert provider("envoyFileAccessLog")["envoyFileAccessLog"]["logFormat"]["labels"] == LOGGED


def test_the_whole_decision_is_in_log_and_spans():
    assert {name: value for name, value in LOGGED.items() if "warmpath" in value} == {f"warmpath_{f}": state(f) for f in FIELDS}
    assert tags() == {f"warmpath.{field}": state(field) for field in FIELDS}


def test_the_fields_are_those_that_the_filter_sets():
    sources = "".join((ROOT / "filter/src" / name).read_text() for name in ("placed.rs", "http.rs"))
    assert set(re.findall(r'\bnote\(&?\*?(?:self\.)?host, "(\w+)"', sources)) == set(FIELDS)


def test_telemetry_names_the_providers_and_the_same_tags():
    (telemetry,) = documents(FOLDER / "telemetry.yaml")
    (logging,), (tracing,) = telemetry["spec"]["accessLogging"], telemetry["spec"]["tracing"]
    assert logging["providers"] == [{"name": provider("envoyFileAccessLog")["name"]}]
    assert tracing["providers"] == [{"name": provider("opentelemetry")["name"]}]
    assert {tag: how["formatter"]["value"] for tag, how in tracing["customTags"].items()} == tags()


def test_envoy_takes_them_beside_the_wiring(tmp_path):
    for wiring in ("envoyfilter.yaml", "streaming/envoyfilter.yaml"):
        files = [ROOT / "istio" / wiring, FOLDER / "access-log.yaml", FOLDER / "trace-tags.yaml"]
        accepts(tmp_path, [patch for file in files for d in documents(file) for patch in d["spec"]["configPatches"]])


def test_the_page_explains_each_field_and_no_other():
    assert re.findall(r"^\| `(\w+)` \|", PAGE.split("## Fields")[1].split("\n## ")[0], re.M) == list(LOGGED)
