"""`make bench-gateway EPP=1` on a small scale: the reference endpoint picker runs, finds its pods and steers Envoy. Only
where `tests/tools/epp` has built it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack.paths import ROOT

CACHE = Path(os.environ.get("WARMPATH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warmpath")


@pytest.mark.skipif(not list(CACHE.glob("epp-*/crds")), reason="tests/tools/epp has not been run: minutes of building")
def test_the_picker_is_measured_beside_plain_envoy(tmp_path):
    out = tmp_path / "gateway.json"
    command = [sys.executable, ROOT / "bench" / "gateway.py", "--setups", "plain", "--epp", "--bodies", "8k"]
    command += ["--concurrency", "2", "--rounds", "1", "--seconds", "0.5", "--no-open-loop", "--out", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=180)
    # It also fails where the picker does not send equal prompts to one pod.
    assert done.returncode == 0, done.stdout + done.stderr
    plain, picker = json.loads(out.read_text())
    assert (plain["setup"], picker["setup"]) == ("plain", "endpoint picker")
    assert (plain["failed"], picker["failed"]) == (0, 0)
    assert picker["cpu_us"]["epp"] > 0
    assert picker["cpu_us_per_request"] > plain["cpu_us_per_request"]
