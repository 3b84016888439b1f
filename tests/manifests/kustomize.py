"""What kubectl makes of a kustomization."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml


def render(folder: Path) -> list[dict]:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not there to build kustomizations")
    built = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]
