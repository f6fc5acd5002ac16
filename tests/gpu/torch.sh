#!/usr/bin/env bash
# PyTorch on GPUs through Convoke: the example's unmodified DDP script under torchrun with NCCL, and what an all-reduce
# reaches in one container, in one container per GPU, and over two agents. What it printed where is in docs/gpu.md.
# Usage: tests/gpu/torch.sh [ddp] [split] [bandwidth]      (without: all, for which the host needs two GPUs)
# Needs convoke and convoke-agent in PATH, a Docker Engine, and an image: IMAGE with PyTorch, or any with a shell where
# MOUNTS brings the host's PyTorch into it and TORCH is the directory of its torchrun; NETWORK=host where the engine
# has no bridge.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
image=${IMAGE:-pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime}
torch=${TORCH:+$TORCH/}
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
work=$(mktemp -d)
agents=()
failed=0
section() { printf '\n=== %s (%ss)\n' "$*" "$SECONDS"; }
check() { local rc=$?; if ((rc)); then printf 'FAILED: %s (exit code %s)\n' "$1" "$rc"; failed=1; fi; }
finish() {
  kill "${agents[@]}" ${coordinator:+"$coordinator"} 2>/dev/null
  wait "${agents[@]}" ${coordinator:+"$coordinator"} 2>/dev/null
  if ((failed)); then tail -n 20 "$work"/*.log; fi
  rm -rf "$work"
}
trap finish EXIT

agent() { # NAME OPTIONS…
  local name=$1; shift
  convoke-agent --node "$name" --state-dir "$work/$name" "$@" >"$work/$name.log" 2>&1 & agents+=($!)
}
one_agent() { agents=(); agent gpu-a; ready 1; }
two_agents() { agents=(); agent gpu-a --gpus 0; agent gpu-b --gpus 1; ready 2; }
ready() { timeout 30 sh -c "until [ \"\$(convoke nodes | grep -c ' ready ')\" = $1 ]; do sleep 0.2; done"; check "$1 nodes"; }
no_agents() {
  kill "${agents[@]}"; wait "${agents[@]}" 2>/dev/null; agents=()
  timeout 30 sh -c "while convoke nodes | grep -q ' ready '; do sleep 0.2; done"
}

# service COMMAND REPLICAS GPUS EXTRA: a Compose file of one service, as the guide writes it.
service() {
  local volume
  printf 'services:\n  train:\n    image: %s\n    working_dir: /workspace\n' "$image"
  [[ -z ${NETWORK:-} ]] || printf '    network_mode: %s\n' "$NETWORK"
  printf '    volumes:\n      - ./scripts:/workspace/scripts\n      - ./data:/workspace/data:ro\n      - ./checkpoints:/workspace/checkpoints\n'
  for volume in ${MOUNTS:-}; do printf '      - %s:%s:ro\n' "$volume" "$volume"; done
  printf '    environment: {NCCL_DEBUG: INFO, NCCL_NVLS_ENABLE: "%s", OMP_NUM_THREADS: "1"}\n' "$NCCL_NVLS_ENABLE"
  printf '    command: %s\n    deploy:\n      replicas: %s\n      resources:\n        reservations:\n          devices:\n' "$1" "$2"
  printf '            - {driver: nvidia, count: %s, capabilities: [gpu]}\n%s' "$3" "${4:-}"
}
# What NCCL says of its ways, counted, beside the program's own lines.
shown() { grep -v 'NCCL INFO'; }
ways() { grep -oE 'via (P2P|SHM|NET)/[A-Za-z/0-9]+' "$1" | sort | uniq -c; }
# trial NAME LIMIT: `up` of $work/NAME.
trial() {
  (cd "$work/$1" && timeout "$2" convoke up) >"$work/$1.out" 2>&1
  check "$1"
  shown <"$work/$1.out"
  echo "--- the ways that NCCL took"
  ways "$work/$1.out"
}
project() { mkdir -p "$work/$1/checkpoints" && cp -r "$root/examples/pytorch-ddp/scripts" "$root/examples/mnist/data" "$work/$1/" && cp "$here/allreduce.py" "$work/$1/scripts/"; }

ddp() {
  section "ddp: one host, two GPUs, the example under torchrun"
  one_agent
  convoke nodes --gpus
  project ddp
  service "${torch}torchrun --nproc_per_node=2 scripts/train.py --epochs 2" 1 2 >"$work/ddp/compose.yaml"
  trial ddp 150
  ls -l "$work/ddp/checkpoints"
  [[ -s $work/ddp/checkpoints/epoch_2.pt ]]; check "the .pt of the last epoch"
  no_agents
}

split() {
  section "split: two agents with one GPU each"
  two_agents
  project split
  service "${torch}torchrun --nproc_per_node=1 scripts/train.py --epochs 2" 2 1 >"$work/split/compose.yaml"
  trial split 150
  [[ -s $work/split/checkpoints/epoch_2.pt ]]; check "the .pt of the last epoch"
  project sockets
  service "${torch}python scripts/allreduce.py" 2 1 $'    x-convoke: {ranks: per-gpu}\n' >"$work/sockets/compose.yaml"
  trial sockets 90
  no_agents
}

bandwidth() {
  section "bandwidth: 1 GiB all-reduce, bare, in one container, in a container per GPU"
  "${torch}torchrun" --standalone --nproc_per_node=2 "$here/allreduce.py" 2>/dev/null
  check "without Convoke"
  one_agent
  project one
  service "${torch}torchrun --nproc_per_node=2 scripts/allreduce.py" 1 2 >"$work/one/compose.yaml"
  trial one 90
  project each
  service "${torch}python scripts/allreduce.py" 1 2 $'    x-convoke: {ranks: per-gpu}\n' >"$work/each/compose.yaml"
  trial each 90
  "${torch}torchrun" --standalone --nproc_per_node=2 "$here/allreduce.py" 2>/dev/null
  check "without Convoke, again"
  no_agents
}

if (($# == 0)); then set -- ddp split bandwidth; fi
for name in "$@"; do
  case $name in
    ddp | split | bandwidth) ;;
    *) echo "no section $name: ddp, split, bandwidth" >&2; exit 2 ;;
  esac
done
convoke serve --data-dir "$work/coordinator" --listen 127.0.0.1:0 --address-file "$work/address" >"$work/coordinator.log" 2>&1 &
coordinator=$!
timeout 20 sh -c "until [ -s '$work/address' ]; do sleep 0.1; done"
CONVOKE_COORDINATOR=http://$(cat "$work/address")
export CONVOKE_COORDINATOR
for name in "$@"; do "$name"; done
section "end"
exit "$failed"
