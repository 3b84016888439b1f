"""deploy/validate.sh and `make test NS=…`: which gateway is reached how, with stand-ins for kubectl and warmpath."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import crd

SCRIPT = crd.ROOT / "deploy" / "validate.sh"

KUBECTL = """#!/usr/bin/env bash
echo "$@" >> "{folder}/kubectl.told"
case "$*" in {refuse}) echo "error: no such thing" >&2; exit 1 ;; esac
echo $$ >> "{folder}/pids"
last=${{!#}}
last=${{last#:}}
printf 'Forwarding from 127.0.0.1:%d -> %s\\n' $((40000 + ${{last}})) "${{last}}"
exec sleep 60
"""

WARMPATH = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "{folder}/warmpath.told"
exit 7
"""


class Cluster:
    def __init__(self, folder: Path):
        self.folder = folder
        self.put("warmpath", WARMPATH)
        self.refuses("nothing")

    def put(self, name: str, text: str, **more: str) -> None:
        program = self.folder / name
        program.write_text(text.format(folder=self.folder, **more))
        program.chmod(0o755)

    def refuses(self, what: str) -> None:
        """Port-forwards whose arguments match this pattern."""
        self.put("kubectl", KUBECTL, refuse=what)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        ours = ("NS", "GATEWAY", "GATEWAY_URL", "MODEL", "KUBECTL")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        path = f"{self.folder}:{os.environ['PATH']}"
        environment = {**kept, "PATH": path, "WARMPATH": str(self.folder / "warmpath"), **variables}
        return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60)

    def told(self, program: str) -> list[str]:
        file = self.folder / f"{program}.told"
        return file.read_text().splitlines() if file.exists() else []

    def forwards_left(self) -> list[int]:
        pids = [int(line) for line in (self.folder / "pids").read_text().split()]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


def test_a_namespace_is_reached_through_port_forwards_that_end_with_it(cluster):
    ran = cluster.run("--rounds", "2", NS="llm-d", MODEL="a model")
    assert ran.returncode == 7, ran.stderr
    assert cluster.told("kubectl") == [
        "port-forward -n llm-d --address 127.0.0.1 service/llm-gateway-istio :80",
        "port-forward -n llm-d --address 127.0.0.1 deployment/llm-gateway-istio :9464",
    ]
    options = ["--gateway", "http://127.0.0.1:40080", "--sidecar", "http://127.0.0.1:49464"]
    assert cluster.told("warmpath") == ["validate", *options, "--model", "a model", "--rounds", "2"]
    assert cluster.forwards_left() == []


def test_another_gateway_can_be_named(cluster):
    cluster.run(NS="n", GATEWAY="edge")
    assert "service/edge-istio" in cluster.told("kubectl")[0]


def test_without_a_sidecar_it_goes_on(cluster):
    cluster.refuses("*9464*")
    ran = cluster.run(NS="llm-d")
    assert ran.returncode == 7
    assert cluster.told("warmpath") == ["validate", "--gateway", "http://127.0.0.1:40080"]
    assert "no such thing" in ran.stderr and "without the sidecar" in ran.stderr


def test_without_a_gateway_it_could_not_run(cluster):
    cluster.refuses("*:80")
    ran = cluster.run(NS="llm-d")
    assert (ran.returncode, cluster.told("warmpath")) == (2, [])
    assert "service/llm-gateway-istio, port 80: error: no such thing" in ran.stderr


def test_a_url_needs_no_kubectl(cluster):
    ran = cluster.run(GATEWAY_URL="https://g", NS="llm-d")
    assert (ran.returncode, cluster.told("kubectl")) == (7, [])
    assert cluster.told("warmpath") == ["validate", "--gateway", "https://g"]


@pytest.mark.parametrize("variables, says", [({}, "NS"), ({"NS": "n", "WARMPATH": "/nowhere"}, "make build")])
def test_what_is_missing_is_named(cluster, variables, says):
    ran = cluster.run(**variables)
    assert (ran.returncode, cluster.told("warmpath")) == (2, [])
    assert says in ran.stderr


def make(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "-C", crd.ROOT, "test", *arguments]
    return subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=True).stdout


def test_make_test_validates_a_cluster_only_when_one_is_named():
    for named in (["NS=llm-d", "MODEL=m"], ["GATEWAY_URL=http://g"]):
        recipe = make(*named)
        assert "deploy/validate.sh" in recipe and "pytest" not in recipe
    assert "NS='llm-d' GATEWAY_URL='' MODEL='m'" in make("NS=llm-d", "MODEL=m")
    # A variable that happens to be in the environment names none.
    assert "pytest" in make(NS="llm-d") and "validate.sh" not in make(NS="llm-d")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not there")
def test_shellcheck_has_nothing_to_say():
    ran = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
