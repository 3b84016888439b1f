"""Simulated vLLM pods, one process each."""

import json
import urllib.request
from pathlib import Path

from . import paths
from .process import Process, free_port, wait_for


class Pod:
    """One simulated pod. `options` are those of `warmpath-bench sim`, such as `kv_tokens=26000`."""

    def __init__(self, folder: Path, name: str = "pod", port: int | None = None, host: str = "127.0.0.1", **options):
        self.address = f"{host}:{port or free_port()}"
        command = [paths.BENCH, "sim", "--listen", self.address]
        for option, value in options.items():
            flag = "--" + option.replace("_", "-")
            if value is True:
                command.append(flag)
            else:
                for one in value if isinstance(value, list) else [value]:
                    command += [flag, str(one)]
        self.process = Process(name, command, folder / f"{name}.log")

    def ready(self) -> "Pod":
        def answers() -> bool:
            self.process.require()
            return self.get("/health") is not None

        wait_for(f"pod {self.address}", answers)
        return self

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as answer:
            return answer.read().decode()

    def post(self, path: str, body: dict | None = None) -> None:
        data = json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=5).read()

    def requests(self) -> list[dict]:
        """What it was asked, in order."""
        return json.loads(self.get("/debug/requests"))

    def behave(self, kind: str, **more) -> None:
        self.post("/debug/behaviour", {"kind": kind, **more})

    def stop(self) -> None:
        self.process.stop()
