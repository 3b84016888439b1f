"""Pods, sidecar and gateway together."""

from collections.abc import Callable
from pathlib import Path

from .envoy import Envoy
from .pods import Pod
from .process import wait_for
from .sidecar import Sidecar


class Stack:
    """Starts everything, waits until requests are steered, ends everything. `feed` takes the sidecar's address
    and gives the one that Envoy asks in its place. `env`: variables of sidecar and Envoy."""

    def __init__(
        self,
        folder: Path,
        wiring: str = "buffered",
        pods: int = 3,
        config: dict | None = None,
        concurrency: int = 2,
        sidecar: bool = True,
        live: bool = False,
        pod_options: dict | None = None,
        feed: Callable[[str], str] | None = None,
        env: dict[str, str] | None = None,
        **envoy,
    ):
        self.folder = folder
        self.parts: list = []
        self.envoy: Envoy | None = None
        try:
            options = {"instant": True} if pod_options is None else pod_options
            self.pods = [self.add(Pod(folder, f"pod{i}", **options)) for i in range(pods)]
            for pod in self.pods:
                pod.ready()
            self.sidecar = self.add(Sidecar(folder, [p.address for p in self.pods], env=env)) if sidecar else None
            if self.sidecar:
                self.sidecar.ready()
            at = self.sidecar.feed if self.sidecar else "127.0.0.1:1"
            at = feed(at) if feed else at
            config = {"debug_headers": True, **(config or {})}
            addresses = [p.address for p in self.pods]
            self.envoy = self.add(Envoy(folder, wiring, addresses, at, config, concurrency, live=live, env=env, **envoy))
            if self.sidecar and wiring != "none" and config.get("mode") != "off":
                self.wait_for_table(pods * options.get("ranks", 1))
        except BaseException:
            self.stop()
            raise

    def add(self, part):
        self.parts.append(part)
        return part

    def wait_for_table(self, choosable: int, timeout: float = 20.0) -> None:
        wait_for(
            f"a table with {choosable} endpoints",
            lambda: self.envoy.stats().get("endpoints_choosable") == choosable,
            timeout,
        )

    def wait_until_sidecar_knows(self) -> int:
        """Until the sidecar, which folds the same journal, has all of it. Returns the entries of its index."""
        appended = self.envoy.stats()["journal_appended"]

        def known() -> int:
            status = self.sidecar.status()
            return status["feeds"][0]["journal_records"] >= appended and status["views"][0]["entries"]

        return wait_for("the sidecar to know", known)

    def pod_at(self, address: str) -> Pod:
        return next(p for p in self.pods if p.address == address)

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
