#!/usr/bin/env bash
# Runs `warmpath validate` against a cluster. `make test NS=llm-d` calls it. Arguments are options of `warmpath
# validate` and go to it as they are; its exit code is this script's.
#
# NS           namespace: the gateway is reached by `kubectl port-forward` to its Service, the sidecar likewise
# GATEWAY      name of the Gateway, llm-gateway by default; Istio calls its Service GATEWAY-GATEWAY_CLASS (istio)
# GATEWAY_URL  instead of NS: where the gateway is reached from here
# MODEL        model to ask for; may be left out where there is only one
# KUBECTL      by default kubectl if it is there, else oc
# WARMPATH     the binary, by default the one that `make build` made
set -euo pipefail

cd "$(dirname "$0")/.."
warmpath=${WARMPATH:-target/dist/warmpath}
command -v "$warmpath" >/dev/null || { echo "validate.sh: $warmpath not found: make build" >&2; exit 2; }

forwards=()
logs=$(mktemp -d)
end() {
  for pid in "${forwards[@]}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$logs"
}
trap end EXIT

# forward TARGET PORT: sets `reached` to the address on this machine.
forward() {
  local log=$logs/${#forwards[@]}
  "$kubectl" port-forward -n "$NS" --address 127.0.0.1 "$1" ":$2" >"$log" 2>&1 &
  local pid=$!
  forwards+=("$pid")
  for ((tries = 0; tries < 300; tries++)); do
    if [[ $(cat "$log") =~ 127\.0\.0\.1:([0-9]+)\ -\> ]]; then
      reached=127.0.0.1:${BASH_REMATCH[1]}
      return
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "validate.sh: $1, port $2: $(tail -n 1 "$log")" >&2
  return 1
}

options=()
if [[ -n ${GATEWAY_URL:-} ]]; then
  options+=(--gateway "$GATEWAY_URL")
elif [[ -n ${NS:-} ]]; then
  kubectl=${KUBECTL:-$(command -v kubectl || command -v oc)} || { echo "validate.sh: neither kubectl nor oc found" >&2; exit 2; }
  gateway=${GATEWAY:-llm-gateway}-${GATEWAY_CLASS:-istio}
  forward "service/$gateway" 80 || exit 2
  options+=(--gateway "http://$reached")
  if forward "deployment/$gateway" 9464; then
    options+=(--sidecar "http://$reached")
  else
    echo "validate.sh: without the sidecar, answers alone tell what was cached" >&2
  fi
else
  echo "validate.sh: set NS, or GATEWAY_URL" >&2
  exit 2
fi
if [[ -n ${MODEL:-} ]]; then
  options+=(--model "$MODEL")
fi

"$warmpath" validate "${options[@]}" "$@"
