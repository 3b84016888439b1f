#!/usr/bin/env bash
# Labels RHCOS nodes as Node Feature Discovery would, where it cannot run or misses something. The GPU Operator finds
# GPU nodes by the PCI label, and the driver build that a node needs by kernel, OS and OSTREE version.
#
# Kernel and OS come from the Node object, so a dry run only reads. That a node has an NVIDIA card cannot be read there:
# name GPU nodes only, or use --probe.
#
# Labels set by hand do not follow an OS update: run it again after one, with --overwrite.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: label-nodes.sh [--apply] [--overwrite] [--probe] [--pci-class CLASS] (-l SELECTOR | NODE...)

  --apply            set the labels; without it the commands are only printed
  --overwrite        also change labels that have another value
  --probe            look on the node for NVIDIA cards and their PCI class (needs oc: it starts a debug pod there)
  --pci-class CLASS  without --probe: 0302 (3D controller: data-centre cards, the default) or 0300 (VGA controller)
  -l SELECTOR        nodes by label, such as node.kubernetes.io/instance-type=p4d.24xlarge

KUBECTL names the client; by default oc if it is there, else kubectl. jq is needed.
exit code: 0 all done or printed, 1 a node was left out (the reason is on stderr), 2 wrong usage
EOF
}

fail() { echo "label-nodes.sh: $1" >&2; exit "${2:-1}"; }

apply=no overwrite=no probe=no pci_class=0302 selector="" nodes=()
while (($#)); do
  case $1 in
    --apply) apply=yes ;;
    --overwrite) overwrite=yes ;;
    --probe) probe=yes ;;
    --pci-class) pci_class=${2:?--pci-class needs a value}; shift ;;
    -l) selector=${2:?-l needs a selector}; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) nodes+=("$1") ;;
  esac
  shift
done
if [[ -n $selector ]]; then
  ((${#nodes[@]} == 0)) || fail "either -l or names of nodes, not both" 2
  nodes=(-l "$selector")
fi
# Never all nodes: a label on one without a card would start a driver pod there that cannot become ready.
((${#nodes[@]})) || { usage >&2; exit 2; }
[[ $pci_class =~ ^03[0-9a-f]{2}$ ]] || fail "--pci-class: four hexadecimal digits that begin with 03 (display controllers)" 2

kubectl=${KUBECTL:-$(command -v oc || command -v kubectl)} || fail "neither oc nor kubectl found" 2
command -v jq >/dev/null || fail "jq not found" 2

# The PCI classes of a node's NVIDIA display controllers, one a line.
probe_classes() {
  # shellcheck disable=SC2016 # expanded on the node
  "$kubectl" debug "node/$1" --quiet -- chroot /host sh -c '
    for device in /sys/bus/pci/devices/*; do
      [ "$(cat "$device/vendor")" = 0x10de ] && cut -c3-6 "$device/class"
    done; true' | grep -E '^03[0-9a-f]{2}$' | sort -u
}

# One node's labels, `key=value` a line. osImage names the OSTREE version: until OpenShift 4.18 as
# "… CoreOS 416.94.202410211619-0", with OpenShift's version in front; from 4.19 on, where RHCOS is a layer on RHEL, as
# "… CoreOS 9.6.20260504-0 (Plow)". NFD's ID and VERSION_ID are those of /etc/os-release.
read -r -d '' labels_of <<'EOF' || true
.status.nodeInfo as $info
| ($info.osImage | capture("CoreOS (?<ostree>[0-9]+[.][0-9]+[.][0-9]+-[0-9]+)").ostree) as $ostree
| ($ostree | split(".")) as $part
| (if ($part[0] | length) > 2
   then {id: "rhcos", major: $part[0][:1], minor: $part[0][1:]}
   else {id: "rhel", major: $part[0], minor: $part[1]} end) as $os
| ({"pci-10de.present": "true"}
   + ([$classes[] | {"pci-\(.)_10de.present": "true"}] | add // {})
   + {
     "kernel-version.full": $info.kernelVersion,
     "system-os_release.ID": $os.id,
     "system-os_release.VERSION_ID": "\($os.major).\($os.minor)",
     "system-os_release.VERSION_ID.major": $os.major,
     "system-os_release.VERSION_ID.minor": $os.minor,
     "system-os_release.OSTREE_VERSION": $ostree
   })
| to_entries[]
| "feature.node.kubernetes.io/\(.key)=\(.value)"
EOF

# A single node comes as itself, several as a list.
found=$("$kubectl" get nodes "${nodes[@]}" -o json | jq -c 'if has("items") then .items[] else . end')
[[ -n $found ]] || fail "no node matches"

left_out=0
while read -r -u 3 node; do
  name=$(jq -r .metadata.name <<<"$node")
  classes=$pci_class
  if [[ $probe == yes ]] && ! classes=$(probe_classes "$name"); then
    echo "$name: no NVIDIA display controller found on it; left out" >&2
    left_out=1
    continue
  fi
  wanted=$(jq -r --argjson classes "$(jq -Rn '[inputs]' <<<"$classes")" "$labels_of" <<<"$node")
  if [[ -z $wanted ]]; then
    echo "$name: $(jq -r .status.nodeInfo.osImage <<<"$node"): not RHCOS; leave it to NFD" >&2
    left_out=1
    continue
  fi

  new=() changed=() force=()
  while IFS= read -r label; do
    has=$(jq -r --arg key "${label%%=*}" '.metadata.labels[$key] // empty' <<<"$node")
    if [[ -z $has ]]; then
      new+=("$label")
    elif [[ $has != "${label#*=}" ]]; then
      changed+=("$label")
    fi
  done <<<"$wanted"

  if ((${#changed[@]})); then
    if [[ $overwrite == yes ]]; then
      new+=("${changed[@]}")
      force=(--overwrite)
    else
      echo "$name: has other values (--overwrite would set): ${changed[*]}" >&2
      left_out=1
    fi
  fi
  if ((${#new[@]} == 0)); then
    echo "# $name: nothing to set"
  elif [[ $apply == yes ]]; then
    "$kubectl" label node "$name" "${force[@]}" "${new[@]}"
  else
    echo "${kubectl##*/} label node $name ${force[*]:+--overwrite }\\"
    for ((i = 0; i < ${#new[@]}; i++)); do
      end=" \\"
      ((i < ${#new[@]} - 1)) || end=""
      echo "  ${new[i]}$end"
    done
  fi
done 3<<<"$found"

[[ $apply == yes ]] || echo "# dry run: nothing was changed; --apply does it"
exit "$left_out"
