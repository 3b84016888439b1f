"""Writes what is generated in monitoring/: the dashboards, and the manifests that carry dashboards and rules.

`make monitoring` runs this; a test fails while its output is not what is committed.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402

from monitoring.dashboards import llm_performance, warmpath_routing  # noqa: E402
from monitoring.dashboards.panels import Page, build  # noqa: E402

PAGES: dict[str, Page] = {"llm-performance": llm_performance.PAGE, "warmpath-routing": warmpath_routing.PAGE}
RULES = ("recording.yaml", "alerts.yaml")
PROVIDER = """\
apiVersion: 1
providers:
  - name: warmpath
    type: file
    # They are kept in git: a change made in Grafana would be lost with the pod.
    allowUiUpdates: false
    options:
      path: /var/lib/grafana-dashboards
"""
NOTE = "# Written by monitoring/generate.py from {source}: change that, then `make monitoring`.\n"


def _indented(text: str, by: int) -> str:
    return "".join(f"{' ' * by}{line}" if line.strip() else line for line in text.splitlines(keepends=True))


def _config_map(name: str, data: dict[str, str]) -> str:
    head = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n"
    return head + "".join(f"  {key}: |\n{_indented(text, 4)}" for key, text in data.items())


def _prometheus_rule(rules: dict[str, str]) -> str:
    """All groups of the rule files, as the Operator's resource."""
    head = (
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: warmpath\n"
        "  labels:\n    release: prometheus # CHANGE: what your Prometheus's ruleSelector asks for\nspec:\n  groups:\n"
    )
    groups = (text.split("groups:\n", 1)[1] for text in rules.values())
    return NOTE.format(source="rules/") + head + "\n".join(_indented(text, 2) for text in groups)


def generate() -> dict[str, str]:
    """Path below monitoring/ to text."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    dashboards = {f"{name}.json": encoder.encode(build(page).build()) + "\n" for name, page in PAGES.items()}
    rules = {name: (HERE / "rules" / name).read_text() for name in RULES}
    return {
        **{f"dashboards/{name}": text for name, text in dashboards.items()},
        "grafana-dashboards-config.yaml": NOTE.format(source="dashboards/")
        + _config_map("grafana-dashboards-config", {"warmpath.yaml": PROVIDER})
        + "---\n"
        + _config_map("grafana-dashboards", dashboards),
        "prometheus-rules.yaml": NOTE.format(source="rules/") + _config_map("prometheus-rules", rules),
        "operator/prometheusrule.yaml": _prometheus_rule(rules),
    }


if __name__ == "__main__":
    for path, text in generate().items():
        (HERE / path).write_text(text)
