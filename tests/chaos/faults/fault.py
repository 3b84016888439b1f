"""What a fault is."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..side import Side

Run = Callable[[Side], Iterator[None]]


@dataclass(frozen=True)
class Fault:
    """`run` breaks, yields, and mends. `options` takes `ends`, for what must be stopped, and a folder, and gives
    options of the side's `Stack`."""

    name: str
    run: Run
    recovers_s: float = 5.0
    """Within which hits are to be back."""
    options: Callable[[ExitStack, bool], dict] = field(default=lambda ends, plain: {})


FAULTS: dict[str, Fault] = {}


def fault(recovers_s: float = 5.0, options: Callable[[ExitStack, bool], dict] | None = None) -> Callable[[Run], Run]:
    """Registers a function; its name, with spaces, is the fault's."""

    def register(run: Run) -> Run:
        name = run.__name__.replace("_", " ")
        more = {"options": options} if options else {}
        FAULTS[name] = Fault(name, run, recovers_s, **more)
        return run

    return register
