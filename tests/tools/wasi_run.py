"""Runs a wasm32-wasip1 program (cargo's `runner` for that target): core's tests and benchmarks in wasm.

wasmtime from PyPI, so that no tool has to be built: `cargo test --target wasm32-wasip1` then runs what ships in the
filter on the target that it ships for.
"""

import sys

import wasmtime

config = wasmtime.Config()
config.wasm_simd = True
config.cache = True
engine = wasmtime.Engine(config)
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig()
wasi.argv = sys.argv[1:]
wasi.inherit_stdin()
wasi.inherit_stdout()
wasi.inherit_stderr()
wasi.env = [("RUST_BACKTRACE", "0"), ("PROPTEST_CASES", "32")]
store.set_wasi(wasi)
try:
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1]))
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as exit_trap:
    sys.exit(exit_trap.code)
except wasmtime.Trap as trap:
    sys.exit(str(trap))
