#!/usr/bin/env python3
"""Writes deploy/rendered/: the chart as plain manifests, one file for each of examples/. `make manifests`.

What only Helm needs is left out, so that a file is what a person would have written.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE / "warmpath"
EXAMPLES = sorted((HERE / "examples").glob("*.yaml"))
RENDERED = HERE.parent / "rendered"
NAMESPACE = "llm-d"
# The chart has no default for it: no image of this project is published.
REPOSITORY = '--set-json=image.repository="REGISTRY/warmpath"'
# Without it Helm takes the version that it was built with.
KUBERNETES = "1.34.0"
HELMS_LABELS = ("helm.sh/chart", *(f"app.kubernetes.io/{name}" for name in ("instance", "managed-by", "version")))


class Refused(Exception):
    """Says why Helm did not render."""


def render(helm: str | Path, *arguments: str | Path) -> list[dict]:
    """The chart's objects, as `helm template` makes them with these arguments."""
    command = [helm, "template", "warmpath", CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    done = subprocess.run([str(part) for part in (*command, *arguments)], capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    return [made for made in yaml.safe_load_all(done.stdout) if made]


def plain(helm: str | Path, *arguments: str | Path) -> list[dict]:
    """The same without Helm's labels, with a placeholder for the image's registry."""
    made = render(helm, REPOSITORY, *arguments)
    for thing in made:
        for label in HELMS_LABELS:
            thing["metadata"].get("labels", {}).pop(label, None)
    return made


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _text(dumper: yaml.Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def text(example: Path, made: list[dict]) -> str:
    head = f"# Written by `make manifests` from deploy/helm/examples/{example.name}: change that, not this.\n"
    return head + yaml.dump_all(made, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True)


def main() -> None:
    helm = sys.argv[1] if len(sys.argv) > 1 else shutil.which("helm")
    if not helm:
        sys.exit("usage: render.py HELM")
    RENDERED.mkdir(exist_ok=True)
    for old in RENDERED.glob("*.yaml"):
        old.unlink()
    for example in EXAMPLES:
        (RENDERED / example.name).write_text(text(example, plain(helm, "--values", example)))


if __name__ == "__main__":
    main()
