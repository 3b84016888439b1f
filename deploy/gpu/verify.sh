#!/usr/bin/env bash
# Is everything there that a pod needs to get a GPU? Prints one line a check, in the order in which things come up, and
# what to look at after a failure. Reads only. docs/gpu.md has the table of fixes.
#
# usage: verify.sh [NAMESPACE]   of the GPU Operator; by default the one where it runs
# KUBECTL names the client; by default oc if it is there, else kubectl. jq is needed.
# exit code: 0 all well, 1 something is not, 2 nothing could be asked
set -euo pipefail

kubectl=${KUBECTL:-$(command -v oc || command -v kubectl)} || { echo "verify.sh: neither oc nor kubectl found" >&2; exit 2; }
command -v jq >/dev/null || { echo "verify.sh: jq not found" >&2; exit 2; }

failed=0
# check TEXT PROBLEMS HINT: well, if there are no problems.
check() {
  if [[ -z $2 ]]; then
    echo "ok      $1"
  else
    failed=1
    echo "FAILED  $1"
    while IFS= read -r line; do echo "          $line"; done <<<"$2"
    echo "        look at: $3"
  fi
}

# 1. Nodes that the operator sees as GPU nodes.
nodes=$("$kubectl" get nodes -o json) || exit 2
gpu_nodes=$(jq -c '[.items[] | select(.metadata.labels | (
    ."feature.node.kubernetes.io/pci-10de.present" // ."feature.node.kubernetes.io/pci-0302_10de.present"
    // ."feature.node.kubernetes.io/pci-0300_10de.present") == "true")]' <<<"$nodes")
problem=""
(($(jq length <<<"$gpu_nodes"))) || problem="no node has an NVIDIA PCI label"
check "GPU nodes are labelled: $(jq -r '[.[].metadata.name] | join(", ")' <<<"$gpu_nodes")" \
  "$problem" "NFD's pods; without NFD on RHCOS: label-nodes.sh"

# 2. The operator.
deployments=$("$kubectl" get deployments --all-namespaces -o json |
  jq -c --arg ns "${1:-}" '[.items[] | select(.metadata.name == "gpu-operator" and ($ns == "" or .metadata.namespace == $ns))]')
namespace=${1:-$(jq -r '.[0].metadata.namespace // empty' <<<"$deployments")}
problem=$(jq -r 'if length == 0 then "no Deployment gpu-operator" else
  .[] | select((.status.readyReplicas // 0) == 0) | "Deployment gpu-operator has no ready pod" end' <<<"$deployments")
check "GPU Operator runs${namespace:+ in $namespace}" "$problem" \
  "OpenShift: is the InstallPlan approved, what does the CSV say? Else: helm status"
if [[ -z $namespace ]]; then
  exit 1
fi

# 3. Its ClusterPolicy.
problem=$("$kubectl" get clusterpolicies.nvidia.com -o json | jq -r '
  if (.items | length) == 0 then "there is none" else
    .items[] | select(.status.state != "ready") | "\(.metadata.name): \(.status.state // "no state yet")",
      (.status.conditions[]? | select(.message != "" and .message != null) | "  \(.reason): \(.message)") end')
check "ClusterPolicy is ready" "$problem" "the pods below, then the operator's log"

# 4. What it runs on the nodes.
problem=$("$kubectl" get daemonsets -n "$namespace" -o json | jq -r '
  if (.items | length) == 0 then "there are none" else
    .items[] | select(.status.desiredNumberScheduled != .status.numberReady)
    | "\(.metadata.name): \(.status.numberReady) of \(.status.desiredNumberScheduled) ready" end')
check "DaemonSets are ready" "$problem" "describe and logs of their pods; the driver comes first, the others wait for it"

problem=$("$kubectl" get pods -n "$namespace" -o json | jq -r '
  .items[] | select(.metadata.deletionTimestamp == null) | select(.status.phase != "Succeeded")
  | ([.status.containerStatuses[]? | select(.ready | not)] | length) as $waiting
  | select(.status.phase != "Running" or $waiting > 0)
  | "\(.metadata.name): \(.status.phase), \($waiting) containers not ready"')
check "pods are Running or Completed" "$problem" "their logs; init containers say what they wait for"

# 5. GPUs that pods can ask for.
problem=$(jq -r '.[] | select((.status.allocatable."nvidia.com/gpu" // "0") == "0") | .metadata.name + ": no nvidia.com/gpu"' \
  <<<"$gpu_nodes")
check "nodes offer nvidia.com/gpu" "$problem" "nvidia-device-plugin-daemonset on that node"
jq -r '.[] | "          \(.metadata.name): \(.status.allocatable."nvidia.com/gpu" // 0) x \(.metadata.labels."nvidia.com/gpu.product" // "?")"' \
  <<<"$gpu_nodes"

exit "$failed"
