#!/usr/bin/env python3
"""Did warmpath's resources take effect? Reads the configuration that the gateway's Envoys run with.

    istio/check.py                            each pod of Gateway llm-d/llm-gateway, by kubectl exec
    istio/check.py -n NAMESPACE -g GATEWAY
    istio/check.py --config-dump FILE         of `pilot-agent request GET config_dump` or istioctl's `-o json`; - is stdin

Ends with 1 where something is missing, and says what to do. Needs Python 3.9 and nothing else; kubectl (or
oc, or what KUBECTL names) for the first two.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Whose translation of our resources `make test-istio` has seen.
CHECKED = ("1.31",)
DESTINATION = "x-gateway-destination-endpoint"
TAGS = ("pool", "reason", "kind", "cause", "prefix")
ROUTER = "envoy.filters.http.router"
ORDERS = {
    "buffered": ("PLUGIN", "warmpath-buffer", "warmpath-destination", ROUTER),
    "streaming": ("warmpath-destination", "PLUGIN", ROUTER),
}


@dataclass(frozen=True)
class Finding:
    """`good`: True, False, or None for a remark."""

    good: "bool | None"
    what: str
    todo: str = ""

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "note"}[self.good]
        return f"{mark}  {self.what}" + (f"\n      {self.todo}" if self.todo else "")


class Dump:
    """Envoy's config_dump, by kind."""

    def __init__(self, dump: dict):
        self.parts = {part["@type"].rsplit(".", 1)[-1]: part for part in dump.get("configs", [])}

    def _list(self, part: str, key: str) -> "list[dict]":
        return self.parts.get(part, {}).get(key, [])

    @property
    def bootstrap(self) -> dict:
        return self.parts.get("BootstrapConfigDump", {}).get("bootstrap", {})

    def chains(self) -> "Iterator[tuple[str, list[dict]]]":
        """Listener, and the HTTP filters of each of its filter chains."""
        for listener in self._list("ListenersConfigDump", "dynamic_listeners"):
            running = listener.get("active_state", {}).get("listener", {})
            for chain in [*running.get("filter_chains", []), running.get("default_filter_chain", {})]:
                for network in chain.get("filters", []):
                    if filters := network.get("typed_config", {}).get("http_filters"):
                        yield listener["name"], filters

    def notes_decisions(self) -> bool:
        """Whether an access log or a tracer asks the plugin for what it decides."""
        running = [listener.get("active_state") for listener in self._list("ListenersConfigDump", "dynamic_listeners")]
        return "wasm.warmpath.reason" in json.dumps(running)

    def extensions(self) -> "dict[str, dict]":
        """Extension configurations by name."""
        found = (entry["ecds_filter"] for entry in self._list("EcdsConfigDump", "ecds_filters"))
        return {extension["name"]: extension["typed_config"] for extension in found}

    def clusters(self) -> "dict[str, dict]":
        kinds = ("dynamic_active_clusters", "static_clusters")
        found = (entry["cluster"] for kind in kinds for entry in self._list("ClustersConfigDump", kind))
        return {cluster["name"]: cluster for cluster in found}

    def virtual_hosts(self) -> "list[dict]":
        routes = self._list("RoutesConfigDump", "dynamic_route_configs")
        return [host for route in routes for host in route["route_config"].get("virtual_hosts", [])]

    def refused(self) -> "Iterator[tuple[str, str]]":
        """What Envoy did not accept, and why."""
        for part in self.parts.values():
            for entries in part.values():
                for entry in entries if isinstance(entries, list) else []:
                    if isinstance(entry, dict) and "error_state" in entry:
                        yield entry.get("name", part["@type"]), entry["error_state"].get("details", "")


def check(dump: dict) -> "list[Finding]":
    """All that can be said of one Envoy."""
    seen = Dump(dump)
    wiring, found = _filters(seen)
    found = [_version(seen), *found]
    if wiring:
        found += _plugin(seen, wiring)
    found += [_pools(seen), _sidecar(seen), _tags(seen), _bodies(seen)]
    return found + [Finding(False, f"Envoy refuses {name}", why) for name, why in seen.refused()]


def _version(seen: Dump) -> Finding:
    version = seen.bootstrap.get("node", {}).get("metadata", {}).get("ISTIO_VERSION", "unknown")
    minor = ".".join(version.split("-")[0].split(".")[:2])
    if minor in CHECKED:
        return Finding(True, f"Istio {version}")
    return Finding(None, f"Istio {version}: these files were tested with {', '.join(CHECKED)} only")


def is_plugin(seen: Dump, name: str) -> bool:
    config = seen.extensions().get(name, {}).get("config", {})
    return config.get("root_id") == "warmpath" or "warmpath" in name


def plugin_names(seen: Dump) -> "set[str]":
    found = (f["name"] for _, filters in seen.chains() for f in filters if "config_discovery" in f)
    return {name for name in found if is_plugin(seen, name)}


def _filters(seen: Dump) -> "tuple[str | None, list[Finding]]":
    """The wiring, if there is one, and whether each chain has its filters in order."""
    plugins = plugin_names(seen)
    found, wirings = [], set()
    for listener, filters in seen.chains():
        names = ["PLUGIN" if f["name"] in plugins else f["name"] for f in filters]
        ours = [name for name in names if name == "PLUGIN" or name.startswith("warmpath-") or name == ROUTER]
        wiring = next((wiring for wiring, order in ORDERS.items() if tuple(ours) == order), None)
        if wiring:
            wirings.add(wiring)
            found.append(Finding(True, f"listener {listener}: filters of the {wiring} wiring, in order"))
        elif ours == [ROUTER]:
            found.append(Finding(False, f"listener {listener}: none of warmpath's filters", "targetRefs: does the Gateway's name match?"))
        else:
            order = " or ".join(", ".join(order) for order in ORDERS.values())
            found.append(Finding(False, f"listener {listener}: filters {', '.join(ours)}", f"needed: {order}"))
    if not found:
        found.append(Finding(False, "no HTTP listener", "is the Gateway programmed?"))
    return (wirings.pop() if len(wirings) == 1 else None), found


def _plugin(seen: Dump, wiring: str) -> "Iterator[Finding]":
    for name in sorted(plugin_names(seen)):
        extension = seen.extensions().get(name)
        if extension is None:
            yield Finding(False, f"plugin {name}: Envoy still waits for it", "the agent's log says why: `wasm`")
            continue
        if not extension["@type"].endswith("wasm.v3.Wasm"):
            yield Finding(
                False,
                f"plugin {name}: could not be fetched, requests go unsteered",
                "let the module's URL answer (is the sidecar up?), then push the configuration again: README.md, section 4",
            )
            continue
        config = extension["config"]
        yield Finding(True, f"plugin {name}: fetched")
        try:
            settings = json.loads(config.get("configuration", {}).get("value") or "{}")
        except ValueError as error:
            yield Finding(False, f"plugin {name}: its configuration is not JSON", str(error))
            continue
        asked = settings.get("wiring", "buffered")
        if asked != wiring:
            yield Finding(False, f"plugin {name}: `wiring: {asked}` in the {wiring} wiring", f"set `wiring: {wiring}`")
        if wiring == "streaming" and not config.get("allow_on_headers_stop_iteration"):
            yield Finding(False, f"plugin {name}: may not stop at the headers", "set allow_on_headers_stop_iteration")
        if seen.notes_decisions() and not settings.get("log_fields"):
            yield Finding(False, f"plugin {name}: access log or spans ask for its decisions, it notes none", "set `log_fields: true`")
        if (mode := settings.get("mode", "steer")) != "steer":
            yield Finding(None, f"plugin {name}: `mode: {mode}`, so nothing is steered yet")


def _pools(seen: Dump) -> Finding:
    found = []
    for name, cluster in seen.clusters().items():
        for policy in cluster.get("load_balancing_policy", {}).get("policies", []):
            sources = policy["typed_extension_config"].get("typed_config", {}).get("override_host_sources", [])
            if {"header": DESTINATION} in sources:
                found.append(name)
    if found:
        return Finding(True, f"pools that obey the decision: {', '.join(found)}")
    todo = "the EnvoyFilter's CLUSTER MERGE must name the Service in front of the pods, and its port"
    return Finding(False, "no cluster has override_host", todo)


def _sidecar(seen: Dump) -> Finding:
    if "warmpath-sidecar" in seen.clusters():
        return Finding(True, "cluster warmpath-sidecar")
    return Finding(False, "no cluster warmpath-sidecar", "the EnvoyFilter's CLUSTER ADD is missing")


def _tags(seen: Dump) -> Finding:
    tags = {tag.get("tag_name") for tag in seen.bootstrap.get("stats_config", {}).get("stats_tags", [])}
    if not (missing := [tag for tag in TAGS if tag not in tags]):
        return Finding(True, "tags of the stats")
    todo = "meshConfig.defaultConfig.extraStatTags (README.md, section 3), then restart the gateway: Envoy reads it at its start"
    return Finding(False, f"tags of the stats: {', '.join(missing)} missing", todo)


def _bodies(seen: Dump) -> Finding:
    hosts = seen.virtual_hosts()
    if missing := [host["name"] for host in hosts if "request_body_buffer_limit" not in host]:
        return Finding(False, f"no request_body_buffer_limit on {', '.join(missing)}", "the EnvoyFilter's VIRTUAL_HOST MERGE is missing")
    return Finding(True, f"request_body_buffer_limit on {len(hosts)} virtual host(s)")


KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl") or shutil.which("oc") or ""


def kubectl(*arguments: str) -> str:
    if not KUBECTL:
        sys.exit("neither kubectl nor oc is there; or give a file: --config-dump")
    done = subprocess.run([KUBECTL, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def dumps(options: argparse.Namespace) -> "Iterator[tuple[str, dict]]":
    if options.config_dump:
        text = sys.stdin.read() if options.config_dump == "-" else Path(options.config_dump).read_text()
        yield options.config_dump, json.loads(text)
        return
    label = f"gateway.networking.k8s.io/gateway-name={options.gateway}"
    pods = kubectl("get", "pods", "-n", options.namespace, "-l", label, "-o", "name").split()
    if not pods:
        sys.exit(f"no pods of Gateway {options.namespace}/{options.gateway}")
    for pod in pods:
        ask = ("pilot-agent", "request", "GET", "config_dump")
        yield pod, json.loads(kubectl("exec", "-n", options.namespace, pod, "-c", "istio-proxy", "--", *ask))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--namespace", default="llm-d")
    parser.add_argument("-g", "--gateway", default="llm-gateway")
    parser.add_argument("--config-dump", metavar="FILE")
    good = True
    for name, dump in dumps(parser.parse_args()):
        print(name)
        for finding in check(dump):
            print(f"  {finding}")
            good &= finding.good is not False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
