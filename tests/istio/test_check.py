"""istio/check.py says of a running gateway what is there and what is missing."""

import copy
import json
import subprocess
import sys

import pytest

import check
from mesh import ISTIO
from stack.process import wait_for


@pytest.fixture
def dump(mesh, replica, wiring) -> dict:
    return replica.gateway.dump()


def failures(dump: dict) -> str:
    return "\n".join(str(finding) for finding in check.check(dump) if finding.good is False)


def part(dump: dict, kind: str) -> dict:
    (found,) = [part for part in dump["configs"] if part["@type"].endswith(kind)]
    return found


@pytest.mark.every_snapshot
def test_nothing_is_said_against_a_gateway_that_steers(dump, wiring, tmp_path):
    found = check.check(dump)
    assert [finding for finding in found if finding.good is not True] == []
    assert f"filters of the {wiring} wiring" in "\n".join(finding.what for finding in found)
    file = tmp_path / "dump.json"
    file.write_text(json.dumps(dump))
    done = subprocess.run([sys.executable, ISTIO / "check.py", "--config-dump", file], capture_output=True, text=True)
    assert done.returncode == 0 and "FAIL" not in done.stdout, done.stdout + done.stderr


def test_missing_parts_are_named(dump, wiring, tmp_path):
    def without(kind: str, change) -> str:
        changed = copy.deepcopy(dump)
        change(part(changed, kind))
        return failures(changed)

    def clusters(keep):
        def change(config: dict) -> None:
            config["dynamic_active_clusters"] = [c for c in config["dynamic_active_clusters"] if keep(c["cluster"]["name"])]

        return change

    def filters(change_chain):
        def change(config: dict) -> None:
            for listener in config["dynamic_listeners"]:
                for chain in listener["active_state"]["listener"]["filter_chains"]:
                    for network in chain["filters"]:
                        change_chain(network["typed_config"]["http_filters"])

        return change

    def refuse(config: dict) -> None:
        config["dynamic_listeners"][0]["error_state"] = {"details": "no such extension"}

    assert "no cluster warmpath-sidecar" in without("ClustersConfigDump", clusters(lambda name: name != "warmpath-sidecar"))
    assert "no cluster has override_host" in without("ClustersConfigDump", clusters(lambda name: "vllm" not in name))
    assert "reason missing" in without("BootstrapConfigDump", lambda config: drop_tag(config, "reason"))
    assert "needed:" in without("ListenersConfigDump", filters(lambda chain: chain.insert(0, chain.pop(-2))))
    gone = filters(lambda chain: chain.__setitem__(slice(0, -1), []))
    assert "none of warmpath's filters" in without("ListenersConfigDump", gone)
    assert "Envoy refuses" in without("ListenersConfigDump", refuse)
    file = tmp_path / "dump.json"
    changed = copy.deepcopy(dump)
    refuse(part(changed, "ListenersConfigDump"))
    file.write_text(json.dumps(changed))
    done = subprocess.run([sys.executable, ISTIO / "check.py", "--config-dump", file], capture_output=True, text=True)
    assert done.returncode == 1 and "no such extension" in done.stdout


def drop_tag(config: dict, tag: str) -> None:
    stats = config["bootstrap"]["stats_config"]
    stats["stats_tags"] = [entry for entry in stats["stats_tags"] if entry.get("tag_name") != tag]


def test_a_wiring_that_the_plugin_does_not_know_of_is_named(mesh, replica):
    """`wiring: streaming` under a WasmPlugin hangs each LLM request."""
    mesh.wire("buffered", wiring="streaming", mode="off")
    try:
        wait_for("the finding", lambda: "`wiring: streaming` in the buffered wiring" in failures(replica.gateway.dump()))
    finally:
        mesh.steer("buffered")


def test_the_readme_names_the_versions_that_the_check_knows():
    readme = (ISTIO / "README.md").read_text()
    assert check.CHECKED and all(f"Istio {version}" in readme for version in check.CHECKED)
