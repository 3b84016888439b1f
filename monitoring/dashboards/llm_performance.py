"""LLM Performance: what the vLLM pods do, whatever routes to them.

vLLM renamed metrics over time. `a or b` takes the older name only for series that lack the newer one, so that fleets
with both, and versions that write both, are counted once:

| now | before |
| --- | --- |
| `kv_cache_usage_perc` | `gpu_cache_usage_perc` (renamed in 0.9) |
| `prefix_cache_queries`, `prefix_cache_hits` | `gpu_prefix_cache_queries`, `gpu_prefix_cache_hits` (renamed in 0.9) |
| `inter_token_latency_seconds` | `time_per_output_token_seconds` (after 0.10) |
"""

from .panels import Graph, Number, Page, Query, Row, Variable

RATE = "[$__rate_interval]"


def rate(name: str, older: str | None = None, more: str = "") -> str:
    """Growth a second of a counter, under its current or its older name."""
    now = f"rate(vllm:{name}{{$filter{more}}}{RATE})"
    return f"({now} or rate(vllm:{older}{{$filter{more}}}{RATE}))" if older else now


def quantile(q: float, name: str, older: str | None = None, by: str = "") -> str:
    # Without requests a quantile is not a number; `>= 0` leaves such points out.
    return f"histogram_quantile({q}, sum by (le{by}) ({rate(name + '_bucket', older and older + '_bucket')})) >= 0"


def quantiles(name: str, older: str | None = None) -> list[Query]:
    return [Query(quantile(q, name, older), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)]


def per_pod(expr: str, how: str = "sum") -> list[Query]:
    return [Query(f"{how} by (pod) ({expr})", "{{pod}}")]


HITS = rate("prefix_cache_hits_total", "gpu_prefix_cache_hits_total")
QUERIED = rate("prefix_cache_queries_total", "gpu_prefix_cache_queries_total")
ITL = ("inter_token_latency_seconds", "time_per_output_token_seconds")
TTFT = "time_to_first_token_seconds"
KV = "(vllm:kv_cache_usage_perc{$filter} or vllm:gpu_cache_usage_perc{$filter})"
RUNNING = "vllm:num_requests_running{$filter}"
WAITING = "vllm:num_requests_waiting{$filter}"
HIT_RATIO = f"sum({HITS}) / (sum({QUERIED}) > 0)"

PAGE = Page(
    uid="warmpath-llm-performance",
    title="LLM Performance",
    says="What the vLLM pods do: latency, caches, queues, throughput. Works without warmpath too.",
    filter='namespace=~"$namespace", model_name=~"$model", pod=~"$pod"',
    variables=[
        Variable("namespace", "vllm:num_requests_running", "namespace"),
        Variable("model", "vllm:num_requests_running", "model_name"),
        Variable("pod", "vllm:num_requests_running", "pod"),
    ],
    rows=[
        Row(
            "Now",
            [
                Number("Requests", "Finished a second.", f"sum({rate('request_success_total')})", "reqps"),
                Number("TTFT p50", "Time to the first token, as vLLM measures it.", quantile(0.5, TTFT), "s"),
                Number("TTFT p90", "One in ten waits longer.", quantile(0.9, TTFT), "s"),
                Number(
                    "Cache hit ratio",
                    "Share of prompt tokens that the pods found in their caches.",
                    HIT_RATIO,
                    "percentunit",
                ),
                Number("Running", "Requests being computed.", f"sum({RUNNING})"),
                Number("Waiting", "Requests in the pods' queues. Should be near 0.", f"sum({WAITING})"),
                Number(
                    "Fullest KV cache",
                    "Held by running requests, on the fullest pod. Near 100 % vLLM preempts.",
                    f"max({KV})",
                    "percentunit",
                    bad_from=0.95,
                ),
                Number(
                    "Output", "Generated tokens a second.", f"sum({rate('generation_tokens_total')})", "short"
                ),
            ],
        ),
        Row(
            "Time to first token",
            [
                Graph(
                    "TTFT",
                    "Over all pods. Rises with queues, with long prompts and with caches that miss.",
                    quantiles(TTFT),
                    "s",
                ),
                Graph(
                    "TTFT p90 per pod",
                    "One pod above the others: its queue, its hardware, or a hot prefix.",
                    [Query(quantile(0.9, TTFT, by=", pod"), "{{pod}}")],
                    "s",
                ),
                Graph(
                    "Time in the queue",
                    "The part of TTFT before any computing. vLLM's buckets begin at 0.3 s.",
                    quantiles("request_queue_time_seconds"),
                    "s",
                ),
            ],
        ),
        Row(
            "Between tokens",
            [
                Graph(
                    "Inter-token latency",
                    "Over all pods. Rises with the number of requests computed at once.",
                    quantiles(*ITL),
                    "s",
                ),
                Graph(
                    "Inter-token latency p90 per pod",
                    "One pod above the others computes more at once.",
                    [Query(quantile(0.9, *ITL, by=", pod"), "{{pod}}")],
                    "s",
                ),
                Graph(
                    "End to end",
                    "From arrival at the pod to the last token.",
                    quantiles("e2e_request_latency_seconds"),
                    "s",
                ),
            ],
        ),
        Row(
            "Caches",
            [
                Graph(
                    "Cache hit ratio",
                    "Share of prompt tokens found cached, over all pods.",
                    [Query(HIT_RATIO, "all pods")],
                    "percentunit",
                    most=1,
                ),
                Graph(
                    "Cache hit ratio per pod",
                    "A pod far below the others restarted, evicts, or gets what nobody has cached.",
                    [Query(f"sum by (pod) ({HITS}) / (sum by (pod) ({QUERIED}) > 0)", "{{pod}}")],
                    "percentunit",
                    most=1,
                ),
                Graph(
                    "KV cache usage per pod",
                    "Held by running requests, of each pod and the mean; what is kept of finished ones does not count.",
                    [*per_pod(KV, "max"), Query(f"avg({KV})", "mean")],
                    "percentunit",
                    most=1,
                ),
            ],
        ),
        Row(
            "Load",
            [
                Graph(
                    "Running and waiting",
                    "Over all pods. Waiting that grows means more comes than is computed.",
                    [Query(f"sum({RUNNING})", "running"), Query(f"sum({WAITING})", "waiting")],
                ),
                Graph("Running per pod", "Should be alike on pods that are alike.", per_pod(RUNNING)),
                Graph("Waiting per pod", "A queue on one pod only is a matter of routing.", per_pod(WAITING)),
            ],
        ),
        Row(
            "Throughput",
            [
                Graph(
                    "Requests",
                    "Finished a second, by how: stop, length (the limit of tokens), abort (the client left).",
                    [Query(f"sum by (finished_reason) ({rate('request_success_total')})", "{{finished_reason}}")],
                    "reqps",
                    stacked=True,
                ),
                Graph(
                    "Tokens",
                    "Prompt tokens and generated tokens a second, over all pods.",
                    [
                        Query(f"sum({rate('prompt_tokens_total')})", "prompt"),
                        Query(f"sum({rate('generation_tokens_total')})", "generated"),
                    ],
                ),
                Graph(
                    "Generated tokens per pod",
                    "A second.",
                    per_pod(rate("generation_tokens_total")),
                ),
                Graph(
                    "Prompt tokens per pod",
                    "A second, cached ones included.",
                    per_pod(rate("prompt_tokens_total")),
                ),
                Graph(
                    "Requests per pod",
                    "Finished a second.",
                    per_pod(rate("request_success_total")),
                    "reqps",
                ),
                Graph(
                    "Preemptions per pod",
                    "A second. Requests thrown out of a full KV cache, to be computed again.",
                    per_pod(rate("num_preemptions_total")),
                ),
            ],
        ),
    ],
)
