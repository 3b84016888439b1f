"""Envoy as a gateway: its bootstrap in the wirings, its process, its stats.

`buffered` and `streaming` are what istio/ makes of a gateway; `none` is the same gateway without the plugin, `ext_proc`
with an endpoint picker in its place, whose address is then `feed`.
"""

import json
import re
import time
import urllib.request
from pathlib import Path

from . import paths
from .process import Process, free_port, wait_for

DESTINATION = "x-gateway-destination-endpoint"
RANK = "x-data-parallel-rank"
MODEL = "x-gateway-model-name"
LLM_PATHS = r"^/v1/(chat/completions|completions|responses|messages)/?(\?.*)?$"
BUFFER_LIMIT = 4 * 1024 * 1024
_EXT = "type.googleapis.com/envoy.extensions"


def _typed(name: str, kind: str, **fields) -> dict:
    return {"name": name, "typed_config": {"@type": f"{_EXT}.{kind}", **fields}}


def wasm_filter(config: dict | str, filter_path: Path, streaming: bool) -> dict:
    """The plugin. A `str` configuration goes in as it is, right or wrong."""
    text = config if isinstance(config, str) else json.dumps(config)
    plugin = {
        "name": "warmpath",
        "root_id": "warmpath",
        "failure_policy": "FAIL_OPEN",
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text},
        "vm_config": {
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": str(filter_path)}},
        },
    }
    if streaming:
        plugin["allow_on_headers_stop_iteration"] = True
    return _typed("warmpath", "filters.http.wasm.v3.Wasm", config=plugin)


def _buffer() -> dict:
    """Holds LLM requests back until their body is whole; everything else streams by."""
    return _typed(
        "warmpath-buffer",
        "common.matching.v3.ExtensionWithMatcher",
        extension_config=_typed("buffer", "filters.http.buffer.v3.Buffer", max_request_bytes=BUFFER_LIMIT),
        xds_matcher={
            "matcher_list": {
                "matchers": [
                    {
                        "predicate": {
                            "not_matcher": {
                                "single_predicate": {
                                    "input": {
                                        "name": "path",
                                        "typed_config": {
                                            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                                            "header_name": ":path",
                                        },
                                    },
                                    "value_match": {"safe_regex": {"google_re2": {}, "regex": LLM_PATHS}},
                                }
                            }
                        },
                        "on_match": {
                            "action": {
                                "name": "skip",
                                "typed_config": {
                                    "@type": f"{_EXT}.filters.common.matcher.action.v3.SkipFilter"
                                },
                            }
                        },
                    }
                ]
            }
        },
    )


def _mutate(*mutations: dict) -> dict:
    return _typed(
        "warmpath-destination",
        "filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": list(mutations)},
    )


def _copy(header: str, state: str) -> dict:
    return {
        "append": {
            "header": {"key": header, "value": f"%FILTER_STATE(wasm.warmpath.{state}:PLAIN)%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            "keep_empty_value": False,
        }
    }


def _ask_picker() -> dict:
    """As the endpoint picker's own chart has it (gateway-api-inference-extension, config/charts/standalone)."""
    modes = {f"{what}_{part}_mode": "SEND" for what in ("request", "response") for part in ("header", "trailer")}
    bodies = {f"{what}_body_mode": "FULL_DUPLEX_STREAMED" for what in ("request", "response")}
    return _typed(
        "picker",
        "filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        processing_mode={**modes, **bodies},
        message_timeout="1000s",
    )


REMOVE_CLIENTS = [{"remove": DESTINATION}, {"remove": RANK}]
COPY_DECISION = [_copy(DESTINATION, "endpoint"), _copy(RANK, "rank")]


def http_filters(wiring: str, config: dict | str, filter_path: Path, plugin: bool = True) -> list[dict]:
    """The filter chain. `plugin=False` leaves only the plugin out, as FAIL_OPEN does when it cannot be fetched."""
    router = _typed("envoy.filters.http.router", "filters.http.router.v3.Router")
    if wiring == "none":
        return [router]
    if wiring == "ext_proc":
        return [_mutate(*REMOVE_CLIENTS), _ask_picker(), router]
    wasm = [wasm_filter(config, filter_path, wiring == "streaming")] if plugin else []
    if wiring == "streaming":
        return [_mutate(*REMOVE_CLIENTS), *wasm, router]
    return [*wasm, _buffer(), _mutate(*REMOVE_CLIENTS, *COPY_DECISION), router]


def _address(address: str) -> dict:
    host, port = address.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _endpoints(name: str, addresses: list[str]) -> dict:
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(a)}} for a in addresses]}],
    }


def _pool_cluster(name: str, addresses: list[str], policy: str, steered: bool) -> dict:
    fallback = _typed(
        f"envoy.load_balancing_policies.{policy}",
        "load_balancing_policies."
        + {"least_request": "least_request.v3.LeastRequest", "round_robin": "round_robin.v3.RoundRobin"}[policy],
    )
    override = _typed(
        "envoy.load_balancing_policies.override_host",
        "load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[{"header": DESTINATION}],
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    chosen = override if steered else fallback
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _endpoints(name, addresses),
        "load_balancing_policy": {"policies": [{"typed_extension_config": chosen}]},
        "circuit_breakers": {
            "thresholds": [{"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 1024}]
        },
    }


def _grpc_cluster(name: str, address: str, http2: dict, **more) -> dict:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _endpoints(name, [address]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_EXT}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        **more,
    }


def _asked_cluster(wiring: str, address: str) -> dict:
    """The sidecar, or the picker."""
    if wiring == "ext_proc":
        # Signed by itself, and as its chart has it not verified.
        tls = _typed("tls", "transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context={"validation_context": {}})
        limits = {"max_connections": 40000, "max_pending_requests": 40000, "max_requests": 40000, "max_retries": 1024}
        window = {"initial_stream_window_size": 65536, "initial_connection_window_size": 1048576}
        more = {"transport_socket": tls, "circuit_breakers": {"thresholds": [limits]}}
        return _grpc_cluster("picker", address, window, **more)
    return _grpc_cluster("warmpath-sidecar", address, {"connection_keepalive": {"interval": "2s", "timeout": "2s"}})


# As Istio's default, and also when a connection ends before any answer: a prompt can be sent again.
RETRY = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,reset",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{_EXT}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 5,
}


def _route(cluster: str, match: dict) -> dict:
    return {"match": match, "route": {"cluster": cluster, "timeout": "0s", "retry_policy": RETRY}}


# What Istio makes of `extraStatTags: [pool, reason, kind, cause, prefix]`.
STATS_TAGS = [
    {"tag_name": tag, "regex": rf"({tag}=\.=(.*?);\.;)"} for tag in ("pool", "reason", "kind", "cause", "prefix")
]


def bootstrap(
    wiring: str,
    pods: list[str],
    listen: int,
    admin: int,
    feed: str,
    config: dict | str,
    filter_path: Path,
    plugin: bool = True,
    lds: Path | None = None,
    model_routes: dict[str, list[str]] | None = None,
    manager: dict | None = None,
    clusters: dict[str, str] | None = None,
    fallback: str | None = None,
) -> dict:
    """The whole configuration. With `lds`, the listener is put there instead, so that it can be changed live. Requests
    whose model (by the header, a regex) is in `model_routes` go to those pods, in a cluster of their own. `manager` is
    more for the HTTP connection manager (access logs, tracing), `clusters` are others by name and address, `fallback`
    is Envoy's own policy for requests that are not steered."""
    routes = [
        _route(f"pool-{n}", {"prefix": "/", "headers": [{"name": MODEL, "string_match": {"safe_regex": {"regex": model}}}]})
        for n, model in enumerate(model_routes or {})
    ]
    listener = {
        "name": "gateway",
        "address": _address(f"127.0.0.1:{listen}"),
        "filter_chains": [
            {
                "filters": [
                    _typed(
                        "http",
                        "filters.network.http_connection_manager.v3.HttpConnectionManager",
                        stat_prefix="gateway",
                        codec_type="AUTO",
                        http_protocol_options={"enable_trailers": True},
                        http_filters=http_filters(wiring, config, filter_path, plugin),
                        route_config={
                            "virtual_hosts": [
                                {
                                    "name": "all",
                                    "domains": ["*"],
                                    # Streaming: what is held back (`decide_at_bytes`) and one more read, which may be as
                                    # large as the connection's buffer. Also what can be sent again by a retry.
                                    "request_body_buffer_limit": BUFFER_LIMIT,
                                    "routes": [*routes, _route("pool", {"prefix": "/"})],
                                }
                            ]
                        },
                        **(manager or {}),
                    )
                ]
            }
        ],
    }
    steered = wiring != "none"
    policy = fallback or ("least_request" if steered else "round_robin")
    of_models = {f"pool-{n}": addresses for n, addresses in enumerate((model_routes or {}).values())}
    pools = [_pool_cluster(*pool, policy, steered) for pool in {"pool": pods, **of_models}.items()]
    others = [
        {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": _endpoints(name, [address])}
        for name, address in (clusters or {}).items()
    ]
    resources: dict = {"clusters": [*pools, _asked_cluster(wiring, feed), *others]}
    result: dict = {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": _address(f"127.0.0.1:{admin}")},
        "stats_config": {"stats_tags": STATS_TAGS},
        # Histograms are merged when stats are flushed.
        "stats_flush_interval": "0.5s",
        # Spans are sent at once, not five together.
        "layered_runtime": {"layers": [{"name": "spans", "static_layer": {"tracing.opentelemetry.min_flush_spans": 1}}]},
        "static_resources": resources,
    }
    if lds is None:
        resources["listeners"] = [listener]
    else:
        typed = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **listener}
        _replace(lds, {"version_info": "1", "resources": [typed]})
        result["dynamic_resources"] = {"lds_config": {"path_config_source": {"path": str(lds)}, "resource_api_version": "V3"}}
    return result


def _replace(path: Path, value: dict) -> None:
    """Envoy watches for a file that is moved into place."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.rename(path)


class Admin:
    """What an Envoy says of itself on its admin port, on loopback."""

    admin: int

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def stats(self) -> dict[str, int]:
        """The filter's counters and gauges, by `name` or `name{tag=value,…}`, without the `warmpath_` in front."""
        # A worker tells what it counted at its ticks, of 50 ms.
        time.sleep(0.12)
        result: dict[str, int] = {}
        for line in self.get("/stats?filter=^wasmcustom.*warmpath_").splitlines():
            name, _, value = line.rpartition(": ")
            if not value.isdigit():
                continue
            tags = re.findall(r"(\w+)=\.=(.*?);\.;", name)
            base = re.search(r"warmpath_(\w+)", name)[1]
            key = base + ("{" + ",".join(f"{k}={v}" for k, v in tags) + "}" if tags else "")
            result[key] = int(value)
        return result


class Envoy(Admin):
    """A running gateway."""

    def __init__(
        self,
        folder: Path,
        wiring: str,
        pods: list[str],
        feed: str = "127.0.0.1:1",
        config: dict | str | None = None,
        concurrency: int = 2,
        filter_path: Path = paths.FILTER,
        plugin: bool = True,
        live: bool = False,
        listen: int | None = None,
        model_routes: dict[str, list[str]] | None = None,
        manager: dict | None = None,
        clusters: dict[str, str] | None = None,
        fallback: str | None = None,
        env: dict[str, str] | None = None,
    ):
        self.folder, self.wiring, self.pods, self.feed, self.plugin = folder, wiring, pods, feed, plugin
        self.model_routes, self.manager, self.clusters, self.fallback = model_routes, manager, clusters, fallback
        self.port = listen or free_port()
        self.admin = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lds = folder / "lds.json" if live else None
        self.filter_path = filter_path
        self.write(config if config is not None else {})
        self.process = Process(
            "envoy",
            [
                paths.ENVOY,
                "-c",
                folder / "envoy.json",
                "--concurrency",
                concurrency,
                "--disable-hot-restart",
                # A client that keeps its connection meets a new listener with its next request, not after ten minutes.
                "--drain-strategy",
                "immediate",
                "--log-level",
                "warning",
                # Of access logs; 10 s by default.
                "--file-flush-interval-msec",
                "100",
            ],
            folder / "envoy.log",
            env,
        )
        wait_for(f"Envoy ({folder / 'envoy.log'})", self.ready)

    def write(self, config: dict | str, wiring: str | None = None) -> None:
        """Writes the configuration; with `live` a running Envoy takes it over."""
        if wiring:
            self.wiring = wiring
        if isinstance(config, dict) and self.wiring != "none":
            config = {"wiring": self.wiring, **config}
        whole = bootstrap(
            self.wiring,
            self.pods,
            self.port,
            self.admin,
            self.feed,
            config,
            self.filter_path,
            self.plugin,
            self.lds,
            self.model_routes,
            self.manager,
            self.clusters,
            self.fallback,
        )
        (self.folder / "envoy.json").write_text(json.dumps(whole))

    def access_log(self) -> list[dict]:
        """Lines of JSON access logs that go to /dev/stdout."""
        return [json.loads(line) for line in self.process.log().splitlines() if line.startswith("{") and line.endswith("}")]

    def ready(self) -> bool:
        self.process.require()
        return self.get("/ready").startswith("LIVE")

    def stop(self) -> None:
        self.process.stop()


# Signs of a filter that broke, in Envoy's log.
BROKEN = ("panicked", "Function: proxy_", "Wasm VM failed", "wasm_trap", "Unable to create Wasm")


def assert_sound(envoy: Envoy) -> None:
    """Envoy runs, and its log shows no filter that broke."""
    log = envoy.process.log()
    assert envoy.process.alive(), log[-3000:]
    assert [line for line in log.splitlines() if any(sign in line for sign in BROKEN)] == []
