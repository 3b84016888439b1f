"""Where the built programs are. `make build` puts them there."""

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target"
FILTER = TARGET / "wasm32-wasip1" / "release" / "warmpath_filter.wasm"
SIDECAR = TARGET / "dist" / "warmpath"
BENCH = TARGET / "dist" / "warmpath-bench"
ENVOY = Path(sysconfig.get_paths()["purelib"]) / "envoy" / "_bin" / "envoy"
TRACE = ROOT / "bench" / "data" / "tau-bench-slice.jsonl.gz"
