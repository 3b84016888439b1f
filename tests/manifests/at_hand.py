"""Programs that take minutes to build: from PATH, or what tests/tools/ built before. Not built here."""

import os
import shutil
from pathlib import Path

import pytest


def program(name: str, built_by: str) -> Path:
    cache = Path(os.environ.get("WARMPATH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "warmpath"))
    built = sorted(cache.expanduser().glob(f"*/{name}"))
    found = shutil.which(name) or (built[-1] if built else None)
    if not found:
        pytest.skip(f"{name} is not there; tests/tools/{built_by} builds it")
    return Path(found)
