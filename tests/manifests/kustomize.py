"""What kubectl makes of a kustomization."""

import subprocess
from pathlib import Path

import yaml

from at_hand import program


def render(folder: Path) -> list[dict]:
    built = subprocess.run([program("kubectl", "kube-apiserver"), "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]
