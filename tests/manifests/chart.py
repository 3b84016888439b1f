"""The Helm chart for tests: Helm where it is at hand, what it renders, and objects in a form that can be compared."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from at_hand import program
from crd import ROOT

HELM_FOLDER = ROOT / "deploy" / "helm"
CHART = HELM_FOLDER / "warmpath"
sys.path.insert(0, str(HELM_FOLDER))

import render  # noqa: E402

__all__ = ["CHART", "comparable", "helm", "key", "lint", "nested", "render"]


def helm() -> Path:
    return program("helm", "helm")


def lint(*arguments: str) -> subprocess.CompletedProcess:
    command = [helm(), "lint", "--strict", CHART, "--kube-version", render.KUBERNETES, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def key(thing: dict) -> tuple[str, str, str]:
    return thing["kind"], thing["metadata"]["namespace"], thing["metadata"]["name"]


def nested(thing: dict) -> dict[str, dict]:
    """What a ConfigMap of a Gateway holds, read."""
    return {name: yaml.safe_load(text) for name, text in thing["data"].items()}


def comparable(things: list[dict]) -> dict[tuple[str, str, str], dict]:
    """By name, with texts that hold YAML or JSON read: their white space and comments do not matter."""
    found = {}
    for thing in things:
        assert key(thing) not in found, f"twice: {key(thing)}"
        found[key(thing)] = thing = json.loads(json.dumps(thing))
        if thing["kind"] == "ConfigMap":
            thing["data"] = nested(thing)
        for patch in thing["spec"]["configPatches"] if thing["kind"] == "EnvoyFilter" else []:
            if patch["applyTo"] == "EXTENSION_CONFIG":
                configuration = patch["patch"]["value"]["typed_config"]["config"]["configuration"]
                configuration["value"] = json.loads(configuration["value"])
    return found
