"""docs/metrics.md has every stat: held against the filter's source, and against what Envoy and the sidecar export."""

import re
import subprocess
from collections import defaultdict
from contextlib import ExitStack

import pytest
from prometheus import home
from stack.envoy import Envoy
from stack.paths import ROOT
from stack.pods import Pod
from stack.process import wait_for
from stack.sidecar import Sidecar

PAGE = (ROOT / "docs/metrics.md").read_text()
SOURCE = (ROOT / "filter/src/stats.rs").read_text()
SUFFIX = re.compile(r"_(bucket|count|sum)$")


def rows(section: str) -> list[list[str]]:
    """Cells of the section's table."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


FILTER = {code(name)[0]: (kind, set(code(tags))) for name, kind, tags, *_ in rows("The filter")}
SIDECAR = {code(name)[0]: (kind, set(code(labels))) for name, kind, labels, *_ in rows("The sidecar")}


def exported(page: str, prefix: str) -> tuple[dict[str, tuple[str, set[str]]], dict[tuple[str, str], set[str]]]:
    """Type and tags of each metric; and the values of each tag of each metric."""
    kinds, tags, values = {}, defaultdict(set), defaultdict(set)
    for line in page.splitlines():
        if found := re.match(rf"# TYPE ({prefix}\w+) (\w+)", line):
            kinds[found[1]] = found[2]
        elif found := re.match(rf"({prefix}\w+)(?:{{(.*)}})? ", line):
            name = found[1] if found[1] in kinds else SUFFIX.sub("", found[1])
            for tag, value in re.findall(r'(\w+)="([^"]*)"', found[2] or ""):
                tags[name].add(tag)
                values[name, tag].add(value)
    return {name: (kind, tags[name] - {"le"}) for name, kind in kinds.items()}, values


def defined() -> dict[str, tuple[str, set[str]]]:
    """The stats that the source defines: type and tags."""
    result: dict[str, tuple[str, set[str]]] = {}
    for block in re.findall(r"metrics! \{(.*?)\n\}", SOURCE, re.S):
        kind = re.search(r"^    (Counter|Gauge|Histogram):", block, re.M)[1].lower()
        for text in re.findall(r'= "([^"]+)"', block):
            result[text.rsplit(".;.", 1)[-1]] = (kind, set(re.findall(r"(\w+)=\.=", text)))
    for text, kind in re.findall(r'format!\("([^"]+)"(?:\);\s*define\(MetricKind::(\w+))?', SOURCE):
        tags = set(re.findall(r"(\w+)=\.=", text))
        result[text.rsplit(".;.", 1)[-1]] = (kind.lower() or "counter", tags)
    return {name.removeprefix(".;"): what for name, what in result.items()}


def test_the_table_is_what_the_source_defines():
    stats = {name.rsplit(";", 1)[-1]: what for name, what in defined().items()}
    assert len(stats) > 40
    assert stats == FILTER


def test_the_table_is_what_envoy_exports(under_load):
    stack, _ = under_load
    found, _ = exported(stack.envoy.get("/stats/prometheus"), "warmpath_")
    assert found == FILTER


def test_the_values_of_the_tags_are_those_that_envoy_exports(under_load):
    stack, _ = under_load
    _, values = exported(stack.envoy.get("/stats/prometheus"), "warmpath_")
    told = defaultdict(set)
    for tag, value, _ in rows("Tags"):
        told[tuple(code(tag))] |= set(code(value))
    found = defaultdict(set)
    for (name, tag), seen in values.items():
        if tag not in ("le", "pool"):
            found[(tag, name) if tag == "cause" else (tag,)] |= seen
    assert told == found
    assert values["warmpath_decisions", "pool"] == {"all"}


def as_written(name: str, kind: str) -> str:
    """OpenMetrics' type lines leave out what the samples' names end with."""
    return name.removesuffix({"counter": "_total", "info": "_info"}.get(kind, ""))


@pytest.fixture
def sidecar_page(tmp_path) -> str:
    """What a sidecar says that feeds an Envoy, with one pod and one that is not there: failed scrapes are counted too."""
    with ExitStack() as ends:
        pod = Pod(tmp_path, instant=True)
        ends.callback(pod.stop)
        sidecar = Sidecar(tmp_path, [pod.ready().address, "127.0.0.1:1"])
        ends.callback(sidecar.stop)
        envoy = Envoy(tmp_path, "buffered", [pod.address], feed=sidecar.ready().feed)
        ends.callback(envoy.stop)
        later = ("scrape_errors_total{", "view_entries{", "endpoint_state{")

        def whole() -> str:
            page = sidecar.get("/metrics")
            return page if all(word in page for word in later) else ""

        return wait_for("all of it", whole)


def as_text_format(page: str) -> str:
    """OpenMetrics' type lines name the metric, the older format's the sample."""
    page = page.removesuffix("# EOF\n")
    for name, kind in re.findall(r"^# TYPE (\S+) (counter|info)$", page, re.M):
        sample = name + {"counter": "_total", "info": "_info"}[kind]
        page = re.sub(rf"^(# (?:HELP|TYPE)) {name} ", rf"\1 {sample} ", page, flags=re.M)
    return page


def test_the_table_is_what_the_sidecar_exports(sidecar_page):
    found, values = exported(as_text_format(sidecar_page), "warmpath_sidecar_")
    assert found == SIDECAR
    says = {code(row[0])[0]: row[3] for row in rows("The sidecar")}
    assert values["warmpath_sidecar_endpoints", "state"] == set(code(says["warmpath_sidecar_endpoints"]))
    causes = code(says["warmpath_sidecar_scrape_errors_total"])
    assert values["warmpath_sidecar_scrape_errors_total", "cause"] <= set(causes)


# What promtool may say of each page, and why that stays.
REMARKS = {
    "envoy": {
        "no help text": "Envoy writes none",
        'counter metrics should have "_total" suffix': "Envoy adds none, and the names are short enough as they are",
        "metric names should not contain abbreviated units": "Envoy's histograms are of whole numbers: ms, not seconds",
    },
    "pod": {"metric names should not contain ':'": "vLLM's own names"},
    "sidecar": {},
}


@pytest.mark.parametrize("name", REMARKS)
def test_promtool_reads_the_page_and_says_nothing_new(request, name):
    if name == "sidecar":
        # Its type `info` is OpenMetrics, which this command does not read; Prometheus does.
        page = as_text_format(request.getfixturevalue("sidecar_page")).replace(" info\n", " gauge\n")
    else:
        stack, _ = request.getfixturevalue("under_load")
        page = stack.envoy.get("/stats/prometheus") if name == "envoy" else stack.pods[0].get("/metrics")
        page = "".join(line + "\n" for line in page.splitlines() if "warmpath_" in line or "vllm:" in line)
    done = subprocess.run([home() / "promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    said = {line.split(" ", 1)[1] for line in (done.stdout + done.stderr).splitlines()}
    assert said == set(REMARKS[name])
