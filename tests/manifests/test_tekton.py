"""deploy/tekton: what the Pipeline names is what the Task has. That the Task's command runs: tests/e2e/test_validate.py."""

import re

import pytest
import yaml

import crd

FOLDER = crd.ROOT / "deploy" / "tekton"
TASK, PIPELINE = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["spec"] for name in ("task", "pipeline"))


def names(listed: list[dict]) -> set[str]:
    return {one["name"] for one in listed}


@pytest.mark.parametrize("spec", [TASK, PIPELINE], ids=["task", "pipeline"])
def test_each_parameter_is_there_and_used(spec):
    used = set(re.findall(r"\$\(params\.([a-z-]+)(?:\[\*\])?\)", yaml.safe_dump(spec)))
    assert used == names(spec["params"])


def test_the_pipeline_gives_the_task_what_it_wants():
    required = {param["name"] for param in TASK["params"] if "default" not in param}
    for task in PIPELINE["tasks"]:
        assert required <= names(task["params"]) <= names(TASK["params"]), task["name"]


def test_defaults_are_the_same_in_both():
    defaults = {param["name"]: param.get("default") for param in TASK["params"]}
    for param in PIPELINE["params"]:
        assert param["name"] == "ramp" or param.get("default") == defaults[param["name"]]


def test_the_pipelines_results_are_the_tasks():
    assert names(PIPELINE["results"]) == names(TASK["results"])
    for result in PIPELINE["results"]:
        assert result["value"] == f"$(tasks.{PIPELINE['tasks'][0]['name']}.results.{result['name']})"
