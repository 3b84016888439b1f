"""Asks a real Envoy whether it takes what an EnvoyFilter makes of a gateway. Patches are applied as istiod does it, as
far as the chart's need it; tests/istio has the real istiod."""

import copy
import json
import subprocess
from pathlib import Path

from stack import envoy, paths


def _applied(whole: dict, patches: list[dict]) -> dict:
    """A gateway's bootstrap with the patches."""
    (listener,) = whole["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    clusters = whole["static_resources"]["clusters"]
    pool = next(cluster for cluster in clusters if cluster["name"] == "pool")
    clusters.remove(next(cluster for cluster in clusters if cluster["name"] == "warmpath-sidecar"))
    code = {}
    for patch in patches:
        what, how, value = patch["applyTo"], patch["patch"]["operation"], copy.deepcopy(patch["patch"]["value"])
        match what, how:
            case "EXTENSION_CONFIG", "ADD":
                # The agent hands Envoy a file.
                value["typed_config"]["config"]["vm_config"]["code"] = {"local": {"filename": str(paths.FILTER)}}
                code[value["name"]] = value
            case "HTTP_FILTER", "INSERT_BEFORE":
                chosen = code[value["name"]] if "config_discovery" in value else value
                manager["http_filters"].insert(-1, chosen)
            case "CLUSTER", "MERGE":
                merged = {**pool, **value, "name": patch["match"]["cluster"]["service"]}
                merged["load_assignment"] = {**pool["load_assignment"], "cluster_name": merged["name"]}
                clusters.append(merged)
            case "CLUSTER", "ADD":
                clusters.append(value)
            case "NETWORK_FILTER", "MERGE":
                manager.update(value["typed_config"])
            case "VIRTUAL_HOST", "MERGE":
                manager["route_config"]["virtual_hosts"][0].update(value)
            case _:
                raise AssertionError(f"{how} of {what}: not known here")
    return whole


def accepts(folder: Path, patches: list[dict]) -> None:
    """Fails with Envoy's words if it does not."""
    whole = envoy.bootstrap("none", ["127.0.0.1:1"], 1, 1, "127.0.0.1:1", {}, paths.FILTER)
    file = folder / "envoy.json"
    file.write_text(json.dumps(_applied(whole, patches)))
    command = [paths.ENVOY, "--mode", "validate", "--log-level", "error", "-c", file]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
