"""The metrics-sidecar and its endpoint file, or another source of endpoints."""

import json
import time
import urllib.request
from pathlib import Path

from . import paths
from .process import Process, free_port, wait_for

# What the table may take to follow the API server.
FOLLOWS_S = 2.0


class Pages:
    """What a sidecar says of itself, with what tests ask of it. `http` is its address."""

    http: str
    process: Process

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as answer:
            return answer.read().decode()

    def status(self) -> dict:
        return json.loads(self.get("/status"))

    def states(self) -> dict[str, str]:
        """Address to state, as in the published table."""
        pods = self.status()["pods"]
        return {pod["address"]: endpoint["state"] for pod in pods for endpoint in pod["endpoints"]}

    def source(self, option: str = "kubernetes") -> dict:
        """What it says of the only source that an option of that name asks for."""
        (source,) = [source for source in self.status()["sources"] if option in source["name"]]
        return source

    def metric(self, name: str, label: str = "") -> float:
        """Of the only series of that name with `label` in its labels."""
        lines = self.get("/metrics").splitlines()
        (line,) = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and label in line]
        return float(line.rsplit(" ", 1)[1])

    def follows(self, wanted: dict[str, str], within: float = FOLLOWS_S) -> float:
        """Waits until the table is as wanted. Gives the seconds it took, counted from the call."""
        began = time.monotonic()
        try:
            wait_for("the table", lambda: self.states() == wanted, timeout=within)
        except TimeoutError:
            raise AssertionError(f"after {within} s {self.states()}, not {wanted}\n{self.log()[-3000:]}") from None
        return time.monotonic() - began

    def log(self) -> str:
        return self.process.log()

    def stop(self) -> None:
        self.process.stop()


class Sidecar(Pages):
    """A sidecar that watches a file of endpoints, or what `sources` names in place of it. `within` is a command that
    it is started by."""

    def __init__(
        self,
        folder: Path,
        pods: list[str] | None = None,
        pools: list[dict] | None = None,
        name: str = "sidecar",
        feed: str | None = None,
        sources: list[str] | None = None,
        env: dict[str, str] | None = None,
        within: list[str] | None = None,
        **options,
    ):
        self.file = folder / f"{name}-endpoints.json"
        if sources is None:
            self.write(pods or [], pools)
            sources = ["--endpoints", self.file]
        self.http = f"127.0.0.1:{free_port()}"
        self.feed = feed or f"127.0.0.1:{free_port()}"
        command = [*(within or []), paths.SIDECAR, "sidecar", *sources, "--http-listen", self.http, "--feed-listen", self.feed]
        for option, value in options.items():
            command += ["--" + option.replace("_", "-"), str(value)]
        self.process = Process(name, command, folder / f"{name}.log", {"RUST_LOG": "info", **(env or {})})

    def write(self, pods: list[str], pools: list[dict] | None = None) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"pools": pools or [{"name": "default", "endpoints": pods}]}))
        new.rename(self.file)

    def ready(self) -> "Sidecar":
        def answers() -> bool:
            self.process.require()
            return self.get("/readyz") is not None

        wait_for("the sidecar", answers)
        return self
