"""The fault matrix in short, one run, a few seconds a fault. `make test-chaos` is the long version.

What fails in a few seconds is a matter of chance where a pod answers errors or hangs, so that is compared with plain Envoy
only in the long version; where no request needs to fail, none may.
"""

import pytest

from .faults import FAULTS
from .matrix import Times, run
from .wasm import trapping

SHORT = Times(before=1.0, during=1.0, after=3.0, timeout=2.0)
# Requests are lost by plain Envoy as well.
COSTS = {
    "gateway restarted",
    "all pods killed",
    "pod hangs before the first byte",
    "pod hangs mid-stream",
    "pod answers 500",
    "pod answers 503",
    "pod answers 429",
    "pod out of KV memory",
    "pod slow by 10x",
}
# As another one, with another number: only in the long version.
ALIKE = {
    "pod answers 503",
    "pod answers 429",
    "half of the pods killed",
    "table is truncated",
    "table of an older format",
    "table of a newer format",
    "sidecar slow",
}


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in ALIKE])
def test_a_fault_under_load(name: str, tmp_path):
    row = run(FAULTS[name], "streaming" if len(name) % 2 else "buffered", tmp_path, SHORT)
    assert row["wrong"] == []
    assert row["sent"] > 200 and row["sent_plain"] > 200
    if name not in COSTS:
        assert (row["failed"], row["reasons"]) == (0, {})
    # Whether they are back in time is for the long version: a busy machine would decide it here.
    # Unsteered it is about 0.6, as `sidecar absent at the start` shows.
    assert row["hits"]["after"] > 0.8, row["hits"]


def test_the_trap_is_put_where_it_is_wanted():
    import wasmtime

    module = wasmtime.wat2wasm(
        '(module (import "e" "f" (func)) (func (export "a") (result i32) i32.const 1)'
        ' (func (export "b") (result i32) i32.const 2))'
    )
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    nothing = wasmtime.Func(store, wasmtime.FuncType([], []), lambda: None)
    exports = wasmtime.Instance(store, wasmtime.Module(engine, trapping(module, "b")), [nothing]).exports(store)
    assert exports["a"](store) == 1
    with pytest.raises(wasmtime.Trap):
        exports["b"](store)
