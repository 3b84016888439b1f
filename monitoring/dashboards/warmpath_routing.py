"""warmpath routing: what the filter decides, what it is worth, and whether its picture of the pods is right."""

from .panels import Graph, Number, Page, Query, Row, Variable

RATE = "[$__rate_interval]"


def rate(name: str, more: str = "") -> str:
    """Growth a second of a stat of the filter."""
    return f"rate(warmpath_{name}{{$filter{more}}}{RATE})"


def total(name: str, more: str = "") -> str:
    return f"sum({rate(name, more)})"


def by(label: str, name: str) -> list[Query]:
    return [Query(f"sum by ({label}) ({rate(name)})", f"{{{{{label}}}}}")]


def quantile(q: float, name: str, more: str = "") -> str:
    # Without requests a quantile is not a number; `>= 0` leaves such points out.
    return f"histogram_quantile({q}, sum by (le) ({rate(name + '_bucket', more)})) >= 0"


def ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def gauge(name: str, how: str = "sum") -> str:
    return f"{how}(warmpath_{name}{{$filter}})"


def per_endpoint(name: str, how: str = "max") -> str:
    """A gauge that the sidecar has of each endpoint. Sidecars of several gateway pods have it alike, more or less."""
    return f"{how} by (pool, endpoint, rank) (warmpath_sidecar_endpoint_{name}{{$filter}})"


PREDICTED = ratio(total("predicted_hit_tokens"), total("prompt_tokens"))
TRUE = ratio(total("true_hit_tokens"), total("true_prompt_tokens"))
# Tokens that need no prefill, by what a pod computes in a second: seconds of a pod.
POD_SECONDS = f"{total('predicted_hit_tokens')} / ({gauge('prefill_tokens_per_second', 'avg')} > 0)"
# By the filter's own clock. The same streams in both, where all are steered.
MEAN_TTFT = {
    "predicted": ratio(total("predicted_ttft_ms_sum"), total("predicted_ttft_ms_count")),
    "true": ratio(total("ttft_ms_sum"), total("ttft_ms_count")),
}
OF_ENDPOINT = "{{endpoint}} {{rank}}"
REQUESTS = f"{per_endpoint('running')} + {per_endpoint('waiting')}"

PAGE = Page(
    uid="warmpath-routing",
    title="warmpath routing",
    says="What the filter decides, what that is worth, and whether its picture of the pods is right.",
    filter='namespace=~"$namespace", gateway=~"$gateway"',
    variables=[
        Variable("namespace", "warmpath_steered", "namespace"),
        Variable("gateway", "warmpath_steered", "gateway"),
    ],
    boxes=[("gpus_per_pod", "GPUs a pod", "1")],
    rows=[
        Row(
            "Now",
            [
                Number("Decisions", "A second.", total("decisions"), "reqps"),
                Number(
                    "Predicted hits",
                    "Share of prompt tokens believed to be cached where they went.",
                    PREDICTED,
                    "percentunit",
                ),
                Number(
                    "True hits",
                    "The same share, as vLLM reports it. Needs --enable-prompt-tokens-details.",
                    TRUE,
                    "percentunit",
                ),
                Number("Tokens saved", "Prompt tokens a second that need no prefill.", total("predicted_hit_tokens")),
                Number(
                    "GPU time saved",
                    "GPU-seconds of prefill that an hour of such traffic does not need. All cached tokens count, also "
                    "those that any router would have found; what warmpath adds is measured in `shadow` (Won by steering).",
                    f"3600 * ({POD_SECONDS}) * $gpus_per_pod",
                    "s",
                ),
                Number(
                    "Fallback",
                    "Share of decisions left to Envoy. Anything but 0 means that no endpoint could be named.",
                    ratio(total("decisions", ', reason="fallback"'), total("decisions")),
                    "percentunit",
                    bad_from=0.01,
                ),
                Number(
                    "Choosable endpoints",
                    "As the gateway with the fewest sees it.",
                    gauge("endpoints_choosable", "min"),
                    bad_below=1,
                ),
                Number(
                    "Oldest table",
                    "Age of the endpoint table. Over some seconds the sidecar is silent.",
                    gauge("table_age_ms", "max"),
                    "ms",
                    bad_from=10_000,
                ),
                Number(
                    "Mode",
                    "What the plugin does with its decisions. The least, where gateways differ.",
                    gauge("mode", "min"),
                    words={0: "off", 1: "shadow", 2: "steer"},
                ),
                Number(
                    "Steer percent",
                    "Share of the requests that are steered; 0 but in mode steer. The least, where gateways differ.",
                    f"{gauge('steer_percent', 'min')} / 100",
                    "percentunit",
                ),
                Number("TTFT p90", "Of streams, as the gateway sees it.", quantile(0.9, "ttft_ms"), "ms"),
                Number(
                    "Predicted TTFT p90",
                    "Of the streams that went where they were named, as predicted when they were placed.",
                    quantile(0.9, "predicted_ttft_ms"),
                    "ms",
                ),
                Number("In flight", "Requests under way, by the journal.", gauge("in_flight", "max")),
                Number(
                    "Failing endpoints",
                    "As the sidecar with the most sees it. They get nothing.",
                    'max(warmpath_sidecar_endpoints{$filter, state="failing"})',
                    bad_from=1,
                ),
                Number(
                    "Journal lag",
                    "Slots that Envoy has not sent to its sidecar yet. Should be near 0.",
                    gauge("journal_lag", "max"),
                    bad_from=1_000,
                ),
                Number(
                    "Discovery in step",
                    "1 while each source of endpoints is read and followed.",
                    "min(warmpath_sidecar_discovery_synced{$filter})",
                    bad_below=1,
                ),
            ],
        ),
        Row(
            "Decisions",
            [
                Graph(
                    "Decisions by reason",
                    "warm: to the pod that has the prompt. spill: elsewhere, because that pod is too busy. spread: a new "
                    "conversation sent away from a busy pod. cold: nobody has it. load_only: not matched. fallback: "
                    "left to Envoy.",
                    by("reason", "decisions"),
                    "reqps",
                    stacked=True,
                ),
                Graph(
                    "Spilled and spread",
                    "Share of decisions that left a warm pod. Rises with queues; all the time high: more pods, or a "
                    "higher placement.spill_ratio.",
                    [
                        Query(ratio(total("decisions", f', reason="{reason}"'), total("decisions")), reason)
                        for reason in ("spill", "spread")
                    ],
                    "percentunit",
                ),
                Graph("Decisions by pool", "A second.", by("pool", "decisions"), "reqps", stacked=True),
                Graph(
                    "Requests by kind",
                    "By vLLM's API; other paths are placed by load.",
                    by("kind", "requests"),
                    "reqps",
                    stacked=True,
                ),
                Graph(
                    "Not matched, by cause",
                    "Prompts placed by load alone. docs/metrics.md names the causes.",
                    by("cause", "load_only"),
                    "reqps",
                    stacked=True,
                ),
                Graph(
                    "Steered, watched, rerouted",
                    "Named to Envoy; left to Envoy (`shadow`, or outside `steer_percent`); gone elsewhere than named.",
                    [Query(total(name), name) for name in ("steered", "watched", "rerouted")],
                    "reqps",
                ),
            ],
        ),
        Row(
            "What it is worth",
            [
                Graph(
                    "Hit ratio, predicted and true",
                    "They should lie together. Apart: the picture of the caches is wrong, see missed tokens.",
                    [Query(PREDICTED, "predicted"), Query(TRUE, "true")],
                    "percentunit",
                    most=1,
                ),
                Graph(
                    "Prompt tokens",
                    "A second: all, and those that need no prefill.",
                    [Query(total("prompt_tokens"), "all"), Query(total("predicted_hit_tokens"), "saved")],
                ),
                Graph(
                    "GPU-seconds saved",
                    "A second, so: as many GPUs would do nothing but prefill what is found cached.",
                    [Query(f"({POD_SECONDS}) * $gpus_per_pod", "GPUs")],
                ),
                Graph(
                    "Missed tokens by cause",
                    "Why the others were not cached. new: never seen. left: held elsewhere, but too busy. stale: believed "
                    "to be there, and was not. restart: that pod lost its cache. docs/metrics.md names the rest.",
                    by("cause", "missed_tokens"),
                    stacked=True,
                ),
                Graph(
                    "Unexpected hits",
                    "Cached tokens a second beyond what was believed: other gateways' or clients' work.",
                    [Query(total("unexpected_hit_tokens"), "tokens")],
                ),
                Graph(
                    "Won by steering",
                    "Tokens a second that watched requests would have found cached, beyond those where Envoy sent them. "
                    "0 where all are steered.",
                    [Query(total("shadow_won_tokens"), "tokens")],
                ),
            ],
        ),
        Row(
            "Time to first token",
            [
                Graph(
                    "TTFT warm and cold",
                    "Streams whose prompt was at least half cached, and the others. Envoy's buckets are wide: steps between "
                    "1, 2.5, 5, 10 and 30 s say little.",
                    [
                        Query(quantile(q, "ttft_ms", f', prefix="{prefix}"'), f"{prefix} p{q * 100:.0f}")
                        for prefix in ("warm", "cold")
                        for q in (0.5, 0.9)
                    ],
                    "ms",
                ),
                Graph(
                    "TTFT, all streams",
                    "As the gateway sees it.",
                    [Query(quantile(q, "ttft_ms"), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)],
                    "ms",
                ),
                Graph("Streams warm and cold", "A second.", by("prefix", "ttft_ms_count"), "reqps", stacked=True),
                Graph(
                    "TTFT p90 by pool and prefix",
                    "One pool above the others has too few pods, or longer prompts.",
                    [
                        Query(
                            f"histogram_quantile(0.9, sum by (le, pool, prefix) ({rate('ttft_ms_bucket')})) >= 0",
                            "{{pool}} {{prefix}}",
                        )
                    ],
                    "ms",
                ),
                Graph(
                    "TTFT, predicted and true",
                    "Decisions are only as good as this; far apart, see the learned prefill rate. Streams that went elsewhere than "
                    "named (all but a few in shadow) have no prediction.",
                    [
                        Query(quantile(q, name), f"{legend} p{q * 100:.0f}")
                        for legend, name in (("predicted", "predicted_ttft_ms"), ("true", "ttft_ms"))
                        for q in (0.5, 0.9)
                    ],
                    "ms",
                ),
                Graph(
                    "Mean TTFT, predicted and true",
                    "Exact, where the quantiles are guessed between Envoy's wide buckets; but a few slow streams weigh much.",
                    [Query(expr, legend) for legend, expr in MEAN_TTFT.items()],
                    "ms",
                ),
            ],
        ),
        Row(
            "Pods, as the gateway sees them",
            [
                Graph(
                    "Requests per endpoint",
                    "Running and waiting at the sidecar's last scrape.",
                    [Query(REQUESTS, OF_ENDPOINT)],
                ),
                Graph(
                    "In flight per endpoint",
                    "By the journal: what was sent there and has not ended. Far below running and waiting: others send too.",
                    [Query(per_endpoint("in_flight"), OF_ENDPOINT)],
                ),
                Graph(
                    "Believed warm, per endpoint",
                    "Share of its KV cache that the filter believes to be filled with prompts that it knows.",
                    [
                        Query(
                            f"{per_endpoint('predicted_warm_tokens')} / ({per_endpoint('capacity_tokens')} > 0)",
                            OF_ENDPOINT,
                        )
                    ],
                    "percentunit",
                ),
                Graph(
                    "Imbalance",
                    "The busiest endpoint by the mean of its pool. 1 is even; above 2.5 for long, look which prefix is hot.",
                    [Query(f"max by (pool) ({REQUESTS}) / (avg by (pool) ({REQUESTS}) > 0)", "{{pool}}")],
                ),
                Graph(
                    "Endpoints by state",
                    "late: slow to answer scrapes, still chosen. failing: gets nothing.",
                    [Query(f"max by (state) (warmpath_sidecar_endpoints{{$filter}})", "{{state}}")],
                    stacked=True,
                ),
                Graph(
                    "In flight",
                    "Requests under way, by the journal.",
                    [Query("max by (gateway) (warmpath_in_flight{$filter})", "{{gateway}}")],
                ),
                Graph(
                    "Learned prefill rate",
                    "Tokens a second of one pod. Decisions are only as good as this.",
                    [Query("avg by (gateway) (warmpath_prefill_tokens_per_second{$filter})", "{{gateway}}")],
                ),
                Graph(
                    "Learned bytes a token",
                    "Prompt tokens are estimated by it.",
                    [Query("avg by (gateway) (warmpath_bytes_per_token_milli{$filter}) / 1000", "{{gateway}}")],
                ),
            ],
        ),
        Row(
            "Feed and scrapes",
            [
                Graph(
                    "Age of the endpoint table",
                    "In the filter of each gateway pod.",
                    [Query("max by (pod) (warmpath_table_age_ms{$filter})", "{{pod}}")],
                    "ms",
                ),
                Graph(
                    "Scrapes by the sidecar, p90",
                    "Time until a pod answered or failed. Past --scrape-timeout it counts as late.",
                    [
                        Query(
                            "histogram_quantile(0.9, sum by (le) ("
                            f"rate(warmpath_sidecar_scrape_seconds_bucket{{$filter}}{RATE}))) >= 0",
                            "p90",
                        )
                    ],
                    "s",
                ),
                Graph(
                    "Failed scrapes by cause",
                    "A second. Empty as long as none failed.",
                    [Query(f"sum by (cause) (rate(warmpath_sidecar_scrape_errors_total{{$filter}}{RATE}))", "{{cause}}")],
                ),
                Graph(
                    "Last scrape per endpoint",
                    "Seconds. One endpoint far above the others: its process has no time, even for its metrics.",
                    [Query(per_endpoint("scrape_seconds"), OF_ENDPOINT)],
                    "s",
                ),
                Graph(
                    "Failed scrapes per endpoint",
                    "A second, by cause. Empty as long as none failed.",
                    [
                        Query(
                            "sum by (endpoint, rank, cause) ("
                            f"rate(warmpath_sidecar_endpoint_scrape_errors_total{{$filter}}{RATE})) > 0",
                            OF_ENDPOINT + " {{cause}}",
                        )
                    ],
                ),
                Graph(
                    "Sources of endpoints in step",
                    "1 while a source is read and followed; 0: its last endpoints stay in force.",
                    [Query("min by (gateway, source) (warmpath_sidecar_discovery_synced{$filter})", "{{gateway}} {{source}}")],
                    most=1,
                ),
                Graph(
                    "Feed streams",
                    "Opened and ended, a second. One stream a plugin should stay open for hours.",
                    [Query(total("feed_opened"), "opened"), Query(total("feed_closed"), "ended")],
                ),
                Graph(
                    "Streams open at the sidecar",
                    "One for each plugin of the Envoy beside it.",
                    [Query(f"sum by (pod) (warmpath_sidecar_feed_streams{{$filter}})", "{{pod}}")],
                ),
                Graph("Tables received", "A second.", [Query(total("tables"), "tables")]),
            ],
        ),
        Row(
            "Journal",
            [
                Graph(
                    "Journal",
                    "Records appended a second, and slots that VMs folded (each VM folds every one).",
                    [Query(total("journal_appended"), "appended"), Query(total("journal_folded"), "folded")],
                ),
                Graph(
                    "Lost, unreadable, refused",
                    "A second. Should be 0: lost means that VMs fold too slowly (limits.journal_slots).",
                    [
                        Query(total("journal_lost"), "lost"),
                        Query(total("journal_bad"), "unreadable"),
                        Query(total("journal_errors"), "refused"),
                    ],
                ),
                Graph(
                    "Journal lag",
                    "Slots that Envoy has not sent to its sidecar yet. Grows while the sidecar is away.",
                    [Query("max by (pod) (warmpath_journal_lag{$filter})", "{{pod}}")],
                ),
                Graph(
                    "Index",
                    "Boundaries in a VM's index.",
                    [Query("max by (gateway) (warmpath_index_entries{$filter})", "{{gateway}}")],
                ),
                Graph(
                    "Evicted and forgotten",
                    "Boundaries, since the VM began. Evicted: for want of room, in the index or in their endpoint's cache. "
                    "Forgotten: an answer showed that they were not there.",
                    [
                        Query("max by (gateway) (warmpath_index_evicted{$filter})", "{{gateway}} evicted"),
                        Query("max by (gateway) (warmpath_index_forgotten{$filter})", "{{gateway}} forgotten"),
                    ],
                ),
            ],
        ),
        Row(
            "What a decision costs, and errors",
            [
                Graph(
                    "Deciding",
                    "Folding, deciding and journaling one request.",
                    [Query(quantile(q, "decide_us"), f"p{q * 100:.0f}") for q in (0.5, 0.99)],
                    "µs",
                ),
                Graph(
                    "Reading",
                    "Reading and hashing one request's body.",
                    [Query(quantile(q, "read_us"), f"p{q * 100:.0f}") for q in (0.5, 0.99)],
                    "µs",
                ),
                Graph("Bytes read", "Of request bodies, a second.", [Query(total("bytes_read"), "bytes")], "Bps"),
                Graph(
                    "Time spent in the filter",
                    "Seconds a second, of all workers: 0.01 is one hundredth of a core. "
                    "The mean of the requests that were timed, times all decisions.",
                    [
                        Query(f"{mean} / 1e6 * {total('decisions')}", part)
                        for part, mean in (
                            ("deciding", f"{total('decide_us_sum')} / {total('decide_us_count')}"),
                            ("reading", f"{total('read_us_sum')} / {total('read_us_count')}"),
                        )
                    ],
                    "s",
                ),
                Graph(
                    "Answers that went wrong",
                    "A second: 400 or above from an endpoint; ended before an answer began.",
                    [Query(total("upstream_errors"), "400 or above"), Query(total("unanswered"), "unanswered")],
                    "reqps",
                ),
                Graph(
                    "Errors of the filter",
                    "A second. Should be 0; Envoy's log says more.",
                    [
                        Query(total("config_errors"), "configuration refused"),
                        Query(total("table_errors"), "table refused"),
                        Query(total("host_errors"), "call refused by Envoy"),
                    ],
                ),
            ],
        ),
        Row(
            "Rollout and explanations",
            [
                Graph(
                    "Mode",
                    "0 off, 1 shadow, 2 steer.",
                    [Query("min by (gateway) (warmpath_mode{$filter})", "{{gateway}}")],
                    most=2,
                ),
                Graph(
                    "Steer percent",
                    "Share of the requests that are steered; 0 but in mode steer.",
                    [Query("min by (gateway) (warmpath_steer_percent{$filter}) / 100", "{{gateway}}")],
                    "percentunit",
                    most=1,
                ),
                Graph(
                    "Explanations",
                    "Answered a second, and refused: not enabled, or another secret.",
                    [Query(total("explained"), "answered"), Query(total("explain_refused"), "refused")],
                    "reqps",
                ),
            ],
        ),
    ],
)
