"""Loads that go on while something else happens: a light one, and the recorded workload again and again."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import paths
from .client import Answer
from .process import Process, wait_for


class Load:
    """Calls `ask` again and again in a few threads, and remembers what did not go well."""

    def __init__(self, ask: Callable[[], Answer], threads: int = 2, pause: float = 0.02):
        self.ask, self.pause = ask, pause
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                answer = self.ask()
                self.answers.append(answer)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body[:200]!r}")
            except Exception as error:  # noqa: BLE001 - whatever it is, the load must show it
                self.failures.append(repr(error))
            time.sleep(self.pause)

    def wait(self, more: int) -> None:
        """Until so many more requests were answered."""
        goal = len(self.answers) + more
        wait_for(f"{more} more answers", lambda: len(self.answers) >= goal)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait(5)
        return self

    def __exit__(self, kind, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        if kind is None:
            assert not self.failures, f"{len(self.failures)} of {len(self.answers)}: {self.failures[:5]}"


class Recorded:
    """The recorded workload, from its start again whenever it is over, until `stop`. `options` are those of
    `warmpath-bench play`."""

    def __init__(self, folder: Path, url: str, *options, trace: Path = paths.TRACE):
        self.command = [paths.BENCH, "play", "--url", url, "--trace", trace, "--quiet", *options]
        self.log = folder / "load.log"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            play = Process("load", self.command, self.log)
            while play.alive() and not self._over.wait(0.1):
                pass
            play.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(20)
