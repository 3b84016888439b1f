"""`make bench-gateway` on a small scale: its figures are there, and of requests that were answered."""

import json
import subprocess
import sys

import pytest

from stack.paths import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import gateway_report  # noqa: E402

COMPARED = ("plain", "warmpath streaming")
FIGURES = ("rps", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "cpu_us_per_request")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The rows of the closed and of the open loop."""
    out = tmp_path_factory.mktemp("bench") / "gateway.json"
    command = [sys.executable, ROOT / "bench" / "gateway.py", "--setups", ",".join(COMPARED), "--bodies", "8k"]
    command += ["--concurrency", "4", "--rounds", "2", "--seconds", "0.5", "--out", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(file.read_text()) for file in (out, gateway_report.open_file(out))]


def test_every_setup_has_a_row_with_all_figures(measured):
    closed, opened = measured
    for rows, load in ((closed, {"concurrency": 4}), (opened, {"connections": 256})):
        assert [row["setup"] for row in rows] == list(COMPARED)
        for row in rows:
            assert {**row, "body_bytes": 8000, "workers": 2, "failed": 0, **load} == row
            assert all(row[figure] > 0 for figure in FIGURES), row


def test_latencies_are_in_order_and_cpu_time_is_that_of_all_processes(measured):
    for row in sum(measured, []):
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert list(row["cpu_us"]) == (["envoy"] if row["setup"] == "plain" else ["sidecar", "envoy"])
        assert row["cpu_us_per_request"] == pytest.approx(sum(row["cpu_us"].values()), rel=0.2)


def test_the_open_loop_runs_at_half_of_plains_highest_rate(measured):
    closed, opened = measured
    best = max(row["rps"] for row in closed if row["setup"] == "plain")
    assert {row["rate"] for row in opened} == {round(best / 2)}
    (plain,) = (row for row in opened if row["setup"] == "plain")
    assert plain["rps"] == pytest.approx(plain["rate"], rel=0.1)


def test_tables_and_plot_can_be_made_of_it(measured):
    closed, opened = measured
    tables = gateway_report.documented(closed, opened)
    assert all("8 KB" in table for name, table in tables.items() if name != "gateway-options")
    plot = gateway_report.plot(closed)
    assert all(name in plot for name in COMPARED)
