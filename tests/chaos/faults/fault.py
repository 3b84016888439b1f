"""What a fault is."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ..side import Side

Run = Callable[[Side], Iterator[None]]
Options = Callable[[ExitStack, bool, Path], dict]
"""Takes what ends with the run, whether it is for the plain side, and a folder; gives options of `Stack`."""


@dataclass(frozen=True)
class Fault:
    """`run` breaks, yields, and mends; `options` are for the side's stack."""

    name: str
    run: Run
    recovers_s: float = 5.0
    """Within which hits are to be back."""
    options: Options = field(default=lambda ends, plain, folder: {})


FAULTS: dict[str, Fault] = {}


def fault(recovers_s: float = 5.0, options: Options | None = None) -> Callable[[Run], Run]:
    """Registers a function; its name, with spaces, is the fault's."""

    def register(run: Run) -> Run:
        name = run.__name__.replace("_", " ")
        more = {"options": options} if options else {}
        FAULTS[name] = Fault(name, run, recovers_s, **more)
        return run

    return register
