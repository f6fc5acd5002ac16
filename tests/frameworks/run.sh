#!/usr/bin/env bash
# Runs the jobs of this directory on a coordinator and two agents of its own on this host, and checks what
# each prints. What it printed where is in docs/frameworks.md.
# Usage: tests/frameworks/run.sh [torch|jax|tensorflow]...     Without one: all.
# Needs a Docker Engine, root for images that are not built yet (minutes), and the release binaries, or
# those of $CONVOKE_BIN.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=${CONVOKE_BIN:-$root/target/release}:$PATH
(($#)) || set -- torch jax tensorflow
command -v convoke convoke-agent >/dev/null || { echo "no convoke in PATH; run: cargo build --release" >&2; exit 1; }
"$root/tests/images/build.sh" "$@"

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
convoke serve --data-dir "$work/coordinator" --listen 127.0.0.1:0 --address-file "$work/address" \
  2>"$work/coordinator.log" &
until [[ -s $work/address ]]; do sleep 0.1; done
CONVOKE_COORDINATOR=http://$(cat "$work/address")
export CONVOKE_COORDINATOR
for node in node-a node-b; do
  convoke-agent --node "$node" --state-dir "$work/$node" --cpu-slots 2 --advertise-address 127.0.0.1 \
    2>"$work/$node.log" &
done
until (($(convoke nodes | grep -c ' ready ') == 2)); do sleep 0.2; done

# A job's file and nodes, and the line that must come so many times.
job() {
  local file=$1 nodes=$2 times=$3 line=$4 name=${1//[\/.]/-}
  printf '\n$ convoke up --nodes %s -f %s\n' "$nodes" "$file"
  (cd "$here/${file%/*}" && timeout 300 convoke up --nodes "$nodes" -f "${file#*/}") >"$work/$name" 2>&1 || {
    cat "$work/$name"
    return 1
  }
  grep -E "$line|: succeeded after" "$work/$name" | sort -s -k 1,2
  (($(grep -c "$line" "$work/$name") == times)) || { echo "not $times times: $line" >&2; return 1; }
}

for framework in "$@"; do
  case $framework in
    torch)
      job torch/torchrun.yaml 2 4 'of 4: the ranks add up to 6'
      job torch/one-per-node.yaml 2 2 'of 2: the ranks add up to 1'
      job torch/per-gpu.yaml 2 4 'of 4: the ranks add up to 6'
      ;;
    jax) job jax/compose.yaml 2 4 'of 4: the ranks add up to 6' ;;
    tensorflow)
      job tensorflow/multi-worker.yaml 2 2 'of 2: the ranks add up to 1'
      job tensorflow/mirrored.yaml 1 1 '2 devices: their numbers add up to 1'
      ;;
  esac
done
