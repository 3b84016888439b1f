"""Every stat of the filter is there, under its name and with its tags."""

import re

from stack.paths import ROOT

DEFINED = (ROOT / "filter" / "src" / "stats.rs").read_text()
COUNTED = re.findall(r'= "warmpath_(\w+)"', DEFINED)
REASONS = ("warm", "spill", "spread", "cold", "load_only", "pinned", "shed", "fallback")
KINDS = ("chat", "completions", "responses", "messages", "stored", "other")
CAUSES = (
    "empty",
    "not_json",
    "not_utf8",
    "too_deep",
    "duplicate_member",
    "unknown_shape",
    "no_prompt",
    "stateful",
    "compressed",
    "too_large",
    "no_prefix",
)


MISSES = ("new", "other_salt", "left", "stale", "restart", "unread")

TAGGED = [
    *(("decisions", {"pool": "all", "reason": reason}) for reason in REASONS),
    *(("requests", {"kind": kind}) for kind in KINDS),
    *(("load_only", {"cause": cause}) for cause in CAUSES),
    *(("missed_tokens", {"cause": cause}) for cause in MISSES),
]
HISTOGRAMS = [
    ("read_us", {}),
    ("decide_us", {}),
    ("predicted_ttft_ms", {}),
    *(("ttft_ms", {"pool": "all", "prefix": prefix}) for prefix in ("warm", "cold")),
]


def tags(pairs: dict[str, str], quote: str = "") -> str:
    return ",".join(f"{key}={quote}{value}{quote}" for key, value in pairs.items())


def prometheus(stack) -> set[str]:
    """Names and tags of all samples."""
    return {line.rpartition(" ")[0] for line in stack.envoy.get("/stats/prometheus").splitlines() if line[0] != "#"}


def test_every_stat_is_defined_from_the_start(stack):
    stats = stack.envoy.stats()
    wanted = [name for name in COUNTED if name not in dict(HISTOGRAMS)]
    assert len(wanted) > 30
    wanted += [f"{name}{{{tags(pairs)}}}" for name, pairs in TAGGED]
    assert [name for name in wanted if name not in stats] == []
    assert [name for name in stats if name not in wanted] == []


def test_names_and_tags_are_told_apart_for_prometheus(stack):
    wanted = [f"warmpath_{name}{{{tags(pairs, chr(34))}}}" for name, pairs in TAGGED]
    wanted += [f"warmpath_{name}_count{{{tags(pairs, chr(34))}}}" for name, pairs in HISTOGRAMS]
    wanted += ["warmpath_steered{}", "warmpath_endpoints_choosable{}"]
    names = prometheus(stack)
    assert [name for name in wanted if name not in names] == []


def test_no_name_keeps_a_tag_in_it(stack):
    names = {name.split("{")[0] for name in prometheus(stack) if "warmpath" in name}
    assert [name for name in names if "__" in name] == []


def test_gauges_tell_what_is(stack, client, fresh):
    stats = stack.envoy.stats()
    assert (stats["endpoints"], stats["endpoints_choosable"]) == (3, 3)
    assert stats["prefill_tokens_per_second"] > 0
    assert 1000 < stats["bytes_per_token_milli"] < 10_000
    assert stats["table_age_ms"] < 10_000
    assert (stats["mode"], stats["steer_percent"], stats["index_evicted"]) == (2, 100, 0)
    assert stats["journal_lag"] < 100


def test_requests_are_counted_by_kind_and_decision(stack, client, fresh):
    names = ["requests{kind=chat}", "requests{kind=other}", "decisions{pool=all,reason=warm}"]
    names += ["steered", "prompt_tokens"]
    before = [stack.envoy.stats()[name] for name in names]
    text = fresh(100)
    for _ in range(3):
        client.chat(text)
    client.post("/v1/embeddings", {"model": "sim", "input": "x"})
    grown = [stack.envoy.stats()[name] - was for name, was in zip(names, before, strict=True)]
    assert grown[:4] == [3, 1, 2, 4]
    assert 250 < grown[4] < 700
