#!/usr/bin/env bash
# From a cluster to a validated warmpath gateway in front of vLLM pods, in one command:
#
#   ./deploy.sh                all of it: check, infra, llm-d, validate
#   ./deploy.sh check          prerequisites only; changes nothing
#   ./deploy.sh infra          CRDs of Gateway API and its inference extension, Istio
#   ./deploy.sh llm-d          namespace, token, vLLM pods, gateway, warmpath
#   ./deploy.sh validate       does it route by what is warm? (warmpath validate)
#   ./deploy.sh status         what is there and how it stands
#   ./deploy.sh clean          removes what `llm-d` made; namespace, token, Istio and CRDs stay
#
# Each step can be repeated. `make install-all`, `make infra`, … call it with the same variables:
#
#   NS              llm-d                namespace of pods and gateway
#   WARMPATH_IMAGE                       warmpath's image, as `make push REGISTRY=…` prints it; needed
#   MODEL           deploy/vllm's        what vLLM serves
#   IMAGE           deploy/vllm's        vLLM's image
#   REPLICAS        deploy/vllm's        vLLM pods
#   HF_TOKEN                             for gated models; kept in the Secret llm-d-hf-token
#   SIM_IMAGE                            simulated pods (warmpath-bench) from this image in place of vLLM: no GPUs
#   COMPONENTS                           of deploy/vllm/components, such as "gpu-8 model-cache"; openshift by itself
#   GATEWAY_CLASS   istio                GatewayClass
#   SERVICE_TYPE                         ClusterIP, where the cluster has no load balancers
#   MODE            steer                of the filter; shadow: only watch, and then nothing is validated
#   VALUES                               more values for the Helm chart (a file), such as pull secrets
#   GATEWAY         llm-gateway          of `status` and `validate`: another Gateway of yours
#   ISTIO_VERSION, GATEWAY_API_VERSION, INFERENCE_EXTENSION_VERSION   what `infra` installs where nothing is there
#   TIMEOUT         45m                  how long pods may take to load the model
#   DRY_RUN=1                            prints what it would do on a bare, plain Kubernetes; needs no cluster
#   KUBECTL, HELM                        the programs
set -euo pipefail
cd "$(dirname "$0")"

NS=${NS:-llm-d}
MODEL=${MODEL:-}
REPLICAS=${REPLICAS:-}
GATEWAY_CLASS=${GATEWAY_CLASS:-istio}
MODE=${MODE:-steer}
TIMEOUT=${TIMEOUT:-45m}
ISTIO_VERSION=${ISTIO_VERSION:-1.30.0}
GATEWAY_API_VERSION=${GATEWAY_API_VERSION:-v1.5.1}
INFERENCE_EXTENSION_VERSION=${INFERENCE_EXTENSION_VERSION:-v1.5.0}
DRY_RUN=${DRY_RUN:-}
# Istio: EnvoyFilters with targetRefs, and Envoy's request_body_buffer_limit. Kubernetes: native sidecars.
readonly LEAST_ISTIO=1.28 LEAST_KUBERNETES=1.29
# The Gateway of deploy/vllm.
readonly OWN_GATEWAY=llm-gateway
GATEWAY=${GATEWAY:-$OWN_GATEWAY}
# Where the releases are.
readonly GATEWAY_API=https://github.com/kubernetes-sigs/gateway-api/releases/download
readonly INFERENCE_EXTENSION=https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/download
readonly ISTIO_CHARTS=https://istio-release.storage.googleapis.com/charts

kubectl=${KUBECTL:-$(command -v kubectl || command -v oc || echo kubectl)}
helm=${HELM:-helm}
look_at=""

say() { printf '\n== %s\n' "$*"; }
die() { printf '\nFAILED: %s\n' "$1" >&2; [[ -z ${2:-} ]] || printf 'Look at: %s\n' "$2" >&2; exit 1; }
trap 'status=$?; ((status == 0)) || [[ -z $look_at ]] || printf "\nFAILED. Look at: %s\n" "$look_at" >&2' EXIT

# run COMMAND…: shows it; a dry run does no more.
run() {
  printf '+ %s\n' "$(printf '%q ' "$@" | sed 's/ $//')"
  [[ -n $DRY_RUN ]] || "$@"
}
# run_with INPUT COMMAND…: the same with a manifest on its standard input.
run_with() {
  local input=$1
  shift
  printf '+ %s <<END\n%s\nEND\n' "$*" "$input"
  [[ -n $DRY_RUN ]] || "$@" <<<"$input"
}
# ask COMMAND…: reads the cluster; a dry run knows nothing of it.
ask() { [[ -z $DRY_RUN ]] && "$@" 2>/dev/null; }

# at_least VERSION LEAST
at_least() { [[ $(printf '%s\n%s\n' "$2" "${1#v}" | sort -V | head -n 1) == "$2" ]]; }
has_crd() { ask "$kubectl" get crd "$1" -o name >/dev/null; }
is_openshift() { has_crd securitycontextconstraints.security.openshift.io || has_crd clusterversions.config.openshift.io; }
# The version of istiod, by its label or its image's tag; "unknown" where neither tells; nothing without istiod.
istio_version() {
  local seen version
  seen=$(ask "$kubectl" get pods -A -l app=istiod \
    -o 'jsonpath={.items[0].metadata.labels.app\.kubernetes\.io/version} {.items[0].spec.containers[0].image}') || return 0
  [[ -n ${seen// /} ]] || return 0
  version=$(sed -n 's/^v\{0,1\}\([0-9][0-9.]*\).*/\1/p; t; s/@.*//; s/.*:v\{0,1\}\([0-9][0-9.]*\)[^/]*$/\1/p' <<<"$seen")
  echo "${version:-unknown}"
}
# GPUs that one pod wants, and pods, by what is installed.
gpus_of_a_pod() { if [[ " ${COMPONENTS:-} " == *" gpu-8 "* ]]; then echo 8; else echo 1; fi; }
pods_wanted() { if [[ -n $REPLICAS ]]; then echo "$REPLICAS"; elif (($(gpus_of_a_pod) == 8)); then echo 2; else echo 3; fi; }

problems=0
ok() { printf 'ok      %s\n' "$1"; }
bad() { printf 'FAILED  %s\n        fix: %s\n' "$1" "$2"; problems=$((problems + 1)); }
note() { printf 'note    %s\n' "$1"; }

check() {
  say "Prerequisites"
  local program version
  for program in "$kubectl" "$helm"; do
    if command -v "$program" >/dev/null; then ok "$program"; else bad "$program not found" "install it, or name it by KUBECTL or HELM"; fi
  done
  if [[ -n ${WARMPATH_IMAGE:-} ]]; then
    ok "warmpath's image: $WARMPATH_IMAGE"
  else
    bad "WARMPATH_IMAGE is not set; no image is published" "make push REGISTRY=registry.example/team, then WARMPATH_IMAGE=registry.example/team/warmpath:…"
  fi
  [[ $MODE =~ ^(off|shadow|steer)$ ]] || bad "MODE=$MODE" "off, shadow or steer"
  if [[ -n $DRY_RUN ]]; then
    note "dry run: the cluster is not asked for its version, CRDs, Istio, GPUs and rights"
    ((problems == 0)) || note "$problems of these would end it here"
    problems=0
    return
  fi
  version=$("$kubectl" version -o json 2>/dev/null | sed -n '/"serverVersion"/,$ s/.*"gitVersion": "v\([0-9.]*\).*/\1/p' | head -n 1) || version=""
  if [[ -z $version ]]; then
    bad "the cluster does not answer" "$kubectl cluster-info"
    die "$problems prerequisites are not met"
  elif at_least "$version" "$LEAST_KUBERNETES"; then
    ok "Kubernetes $version"
  else
    bad "Kubernetes $version, at least $LEAST_KUBERNETES is needed" "native sidecars came with it"
  fi
  if is_openshift; then ok "OpenShift"; fi
  if has_crd gateways.gateway.networking.k8s.io; then ok "CRDs of Gateway API"; else note "no CRDs of Gateway API: infra installs $GATEWAY_API_VERSION"; fi
  version=$(istio_version || true)
  if [[ -z $version ]]; then
    note "no Istio: infra installs $ISTIO_VERSION"
  elif [[ $version == unknown ]]; then
    note "Istio is there, of a version that its image does not tell; at least $LEAST_ISTIO is needed"
  elif at_least "$version" "$LEAST_ISTIO"; then
    ok "Istio $version"
  else
    bad "Istio $version, at least $LEAST_ISTIO is needed" "upgrade it; docs/install.md"
  fi
  if [[ -z ${SIM_IMAGE:-} ]]; then
    local gpus wanted
    wanted=$(($(pods_wanted) * $(gpus_of_a_pod)))
    gpus=$("$kubectl" get nodes -o 'jsonpath={range .items[*]}{.status.allocatable.nvidia\.com/gpu}{"\n"}{end}' 2>/dev/null | awk '{sum += $1} END {print sum + 0}')
    if ((gpus >= wanted)); then
      ok "$gpus GPUs on the nodes"
    else
      bad "$gpus GPUs on the nodes, $(pods_wanted) pods want $wanted" "docs/gpu.md; fewer REPLICAS; or simulated pods: SIM_IMAGE"
    fi
    if [[ -n ${HF_TOKEN:-} ]]; then
      ok "HF_TOKEN"
    elif ask "$kubectl" get secret llm-d-hf-token -n "$NS" -o name >/dev/null; then
      ok "Secret llm-d-hf-token"
    else
      note "no HF_TOKEN: enough for models that are not gated"
    fi
  fi
  [[ -x target/dist/warmpath || -n ${WARMPATH:-} ]] || note "target/dist/warmpath is not there, which validates at the end: make build"
  for what in customresourcedefinitions clusterroles namespaces; do
    if ! "$kubectl" auth can-i create "$what" >/dev/null 2>&1; then bad "no right to create $what" "ask a cluster administrator"; fi
  done
  ((problems == 0)) || die "$problems prerequisites are not met"
}

anyuid() {
  printf '%s\n' "apiVersion: rbac.authorization.k8s.io/v1" "kind: ClusterRoleBinding" "metadata: {name: warmpath-anyuid-$1}" \
    "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"system:openshift:scc:anyuid\"}" \
    "subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: \"system:serviceaccounts:$1\"}]"
}

infra() {
  say "CRDs of Gateway API $GATEWAY_API_VERSION and of its inference extension $INFERENCE_EXTENSION_VERSION"
  look_at="the address above, from this machine; behind a proxy fetch the file and kubectl apply it"
  if has_crd gateways.gateway.networking.k8s.io; then
    echo "Gateway API is there, left as it is"
  else
    run "$kubectl" apply --server-side -f "$GATEWAY_API/$GATEWAY_API_VERSION/standard-install.yaml"
  fi
  if has_crd inferencepools.inference.networking.k8s.io; then
    echo "InferencePool is there, left as it is"
  else
    run "$kubectl" apply --server-side -f "$INFERENCE_EXTENSION/$INFERENCE_EXTENSION_VERSION/v1-manifests.yaml"
  fi

  say "Istio"
  local version platform=()
  version=$(istio_version || true)
  if [[ -n $version ]]; then
    echo "Istio $version is there, left as it is. For tags on warmpath's stats its meshConfig needs extraStatTags: istio/README.md"
  else
    if is_openshift; then
      look_at="$kubectl get clusterrole system:openshift:scc:anyuid; you need cluster-admin"
      platform=(--set global.platform=openshift)
      # As `oc adm policy add-scc-to-group anyuid`, for which kubectl has no word. vLLM and the sidecar need none.
      run_with "$(anyuid istio-system)" "$kubectl" apply -f -
    fi
    look_at="$kubectl get pods -n istio-system; $kubectl logs -n istio-system deployment/istiod"
    run "$helm" upgrade --install istio-base base --repo "$ISTIO_CHARTS" --version "$ISTIO_VERSION" \
      -n istio-system --create-namespace --wait
    run "$helm" upgrade --install istiod istiod --repo "$ISTIO_CHARTS" --version "$ISTIO_VERSION" -n istio-system --wait \
      --set 'meshConfig.defaultConfig.extraStatTags={pool,reason,kind,cause,prefix}' "${platform[@]}"
  fi
  if [[ $GATEWAY_CLASS == istio ]]; then
    look_at="$kubectl get gatewayclass; $kubectl logs -n istio-system deployment/istiod"
    # istiod makes it, a moment after it is ready.
    for ((tries = 0; tries < 60; tries++)); do
      if [[ -n $DRY_RUN ]] || ask "$kubectl" get gatewayclass "$GATEWAY_CLASS" -o name >/dev/null; then break; fi
      sleep 2
    done
    run "$kubectl" wait --for=condition=Accepted "gatewayclass/$GATEWAY_CLASS" --timeout=2m
  fi
  look_at=""
}

# The pods of deploy/vllm with this model, image, namespace and class, in target/deploy.
overlay() {
  local base=deploy/vllm component image
  [[ -z ${SIM_IMAGE:-} ]] || base=deploy/vllm/sim
  mkdir -p target/deploy
  {
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: %s\nresources: [../../%s]\n' "$NS" "$base"
    if [[ -z ${SIM_IMAGE:-} ]]; then
      local components=()
      read -ra components <<<"${COMPONENTS:-}"
      if is_openshift && [[ " ${components[*]} " != *" openshift "* ]]; then components+=(openshift); fi
      if ((${#components[@]})); then
        echo "components:"
        for component in "${components[@]}"; do echo "  - ../../deploy/vllm/components/$component"; done
      fi
    fi
    [[ -z $REPLICAS ]] || printf 'replicas: [{name: vllm-decode, count: %d}]\n' "$REPLICAS"
    image=${SIM_IMAGE:-${IMAGE:-}}
    if [[ -n $image ]]; then
      local name=docker.io/vllm/vllm-openai
      [[ -z ${SIM_IMAGE:-} ]] || name=REGISTRY/warmpath-bench
      printf 'images: [%s]\n' "$(image_of "$name" "$image")"
    fi
    echo "patches:"
    printf '  - target: {kind: Gateway}\n    patch: |\n      - {op: replace, path: /spec/gatewayClassName, value: "%s"}\n' "$GATEWAY_CLASS"
    if [[ -n ${SERVICE_TYPE:-} ]]; then
      printf '      - {op: add, path: /metadata/annotations, value: {networking.istio.io/service-type: "%s"}}\n' "$SERVICE_TYPE"
    fi
    if [[ -z $MODEL ]]; then
      :
    elif [[ -z ${SIM_IMAGE:-} ]]; then
      printf '  - patch: |\n      apiVersion: apps/v1\n      kind: Deployment\n      metadata: {name: vllm-decode}\n      spec: {template: {spec: {containers: [{name: vllm, env: [{name: MODEL, value: "%s"}]}]}}}\n' "$MODEL"
    else
      printf '  - target: {kind: Deployment, name: vllm-decode}\n    patch: |\n      - {op: add, path: /spec/template/spec/containers/0/args/-, value: "--model=%s"}\n' "$MODEL"
    fi
  } >target/deploy/kustomization.yaml
}

# image_of NAME REFERENCE: kustomize's words for it.
image_of() {
  local repository=$2
  if [[ $repository == *@* ]]; then
    printf '{name: %s, newName: %s, digest: %s}' "$1" "${repository%@*}" "${repository#*@}"
  elif [[ ${repository##*/} == *:* ]]; then
    printf '{name: %s, newName: %s, newTag: "%s"}' "$1" "${repository%:*}" "${repository##*:}"
  else
    printf '{name: %s, newName: %s, newTag: latest}' "$1" "$repository"
  fi
}

# The chart's image values.
image_values() {
  local reference=$WARMPATH_IMAGE
  if [[ $reference == *@* ]]; then
    printf -- '--set-string\nimage.digest=%s\n' "${reference#*@}"
    reference=${reference%@*}
  fi
  if [[ ${reference##*/} == *:* ]]; then
    printf -- '--set-string\nimage.tag=%s\n' "${reference##*:}"
    reference=${reference%:*}
  fi
  printf -- '--set-string\nimage.repository=%s\n' "$reference"
}

llm_d() {
  if [[ -z ${WARMPATH_IMAGE:-} ]]; then
    [[ -n $DRY_RUN ]] || die "WARMPATH_IMAGE is not set" "make push REGISTRY=registry.example/team"
    WARMPATH_IMAGE=REGISTRY/warmpath
  fi
  say "Namespace $NS"
  run_with "{apiVersion: v1, kind: Namespace, metadata: {name: $NS}}" "$kubectl" apply -f -
  if [[ -n ${HF_TOKEN:-} ]]; then
    echo "+ $kubectl apply -f - (Secret llm-d-hf-token, from HF_TOKEN)"
    [[ -n $DRY_RUN ]] || "$kubectl" create secret generic llm-d-hf-token -n "$NS" "--from-literal=HF_TOKEN=$HF_TOKEN" \
      --dry-run=client -o yaml | "$kubectl" apply -f -
  fi

  # First, because Istio deploys no gateway whose sidecar options are not there.
  say "warmpath"
  look_at="helm status warmpath -n $NS; deploy/helm/warmpath/README.md"
  local values=() more=()
  mapfile -t values < <(image_values)
  [[ -z ${VALUES:-} ]] || more=(--values "$VALUES")
  run "$helm" upgrade --install warmpath deploy/helm/warmpath -n "$NS" "${values[@]}" \
    --set-string "gateway.name=$OWN_GATEWAY,gateway.className=$GATEWAY_CLASS" --set-string "pluginConfig.mode=$MODE" "${more[@]}"

  say "vLLM pods, Service, Gateway, HTTPRoute"
  look_at="$kubectl get events -n $NS --sort-by=.lastTimestamp"
  overlay
  run "$kubectl" apply -k target/deploy
  say "The gateway (until it is programmed)"
  look_at="$kubectl describe gateway -n $NS $OWN_GATEWAY; without load balancers: SERVICE_TYPE=ClusterIP; an image that cannot be pulled: $kubectl get pods -n $NS"
  run "$kubectl" wait -n "$NS" --for=condition=Programmed "gateway/$OWN_GATEWAY" --timeout=5m
  run "$kubectl" rollout status -n "$NS" "deployment/$OWN_GATEWAY-$GATEWAY_CLASS" --timeout=5m
  say "The pods (until their model is loaded, at most $TIMEOUT)"
  look_at="$kubectl get pods -n $NS -l app.kubernetes.io/name=vllm; their logs; docs/troubleshooting.md"
  run "$kubectl" rollout status -n "$NS" deployment/vllm-decode "--timeout=$TIMEOUT"
  look_at=""
}

validate() {
  say "Does it route by what is warm?"
  if [[ $MODE != steer ]]; then
    note "MODE=$MODE: nothing is steered, so nothing is validated"
    return
  fi
  look_at="the lines marked FAIL above; docs/troubleshooting.md; ./deploy.sh status"
  export NS MODEL KUBECTL=$kubectl GATEWAY GATEWAY_CLASS
  run deploy/validate.sh "$@"
  look_at=""
}

status() {
  local get=("$kubectl" get -n "$NS")
  say "Gateway"
  run "${get[@]}" gateway,httproute
  say "Pods"
  run "${get[@]}" pods -o wide
  say "warmpath, as each gateway pod's sidecar sees it"
  if [[ -n $DRY_RUN ]]; then
    run "$kubectl" exec -n "$NS" "deployment/$GATEWAY-$GATEWAY_CLASS" -c warmpath-sidecar -- /warmpath status
    return
  fi
  local pod failed=0 pods
  pods=$("${get[@]}" pods -l "gateway.networking.k8s.io/gateway-name=$GATEWAY" -o name)
  [[ -n $pods ]] || die "no pod of the Gateway $GATEWAY in $NS" "$kubectl describe gateway -n $NS $GATEWAY"
  for pod in $pods; do
    run "$kubectl" exec -n "$NS" "$pod" -c warmpath-sidecar -- /warmpath status || failed=1
  done
  ((failed == 0)) || die "a sidecar has no endpoint to choose, or does not answer" "its note and source lines above; docs/troubleshooting.md"
}

clean() {
  say "Removing the pods, the gateway and warmpath from $NS"
  overlay
  run "$kubectl" delete -k target/deploy --ignore-not-found
  run "$helm" uninstall warmpath -n "$NS" --ignore-not-found
  echo
  echo "Left: the namespace $NS with its Secrets, Istio, the CRDs."
}

command=${1:-all}
shift || true
case $command in
  all)
    check
    infra
    llm_d
    validate "$@"
    ;;
  check | infra | status | clean) "$command" ;;
  llm-d) llm_d ;;
  validate) validate "$@" ;;
  *)
    sed -n '2,/^set -/ s/^# \{0,1\}//p' "$0"
    [[ $command == help || $command == --help || $command == -h ]] || exit 2
    ;;
esac
