#!/usr/bin/env bash
# PyTorch on GPUs through Convoke: the example's unmodified DDP script under torchrun with NCCL, and what an all-reduce
# reaches in one container, in one container per GPU, and over two agents. What it printed where is in docs/gpu.md.
# Usage: tests/gpu/torch.sh [ddp] [split] [bandwidth]      (without: all, for which the host needs two GPUs)
# Needs convoke and convoke-agent in PATH, a Docker Engine, and an image: IMAGE with PyTorch, or any with a shell where
# MOUNTS brings the host's PyTorch into it and TORCH is the directory of its torchrun; NETWORK=host where the engine
# has no bridge. The bandwidth without Convoke is measured where the host has that torchrun too.
# shellcheck disable=SC2317  # sections are called by name
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
image=${IMAGE:-pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime}
torch=${TORCH:+$TORCH/}

one_agent() { coordinator && agent gpu-a && nodes 1; }
two_agents() { coordinator && agent gpu-a --gpus 0 && agent gpu-b --gpus 1 && nodes 2; }

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

# trial NAME LIMIT: `up` of $work/NAME; then the program's own lines, and what NCCL says of its ways, counted.
trial() {
  (cd "$work/$1" && timeout -k 20 "$2" convoke up) >"$work/$1.out" 2>&1
  check "$1"
  grep -v 'NCCL INFO' "$work/$1.out"
  echo "--- the ways that NCCL took"
  grep -oE 'via (P2P|SHM|NET)/[A-Za-z/0-9]+' "$work/$1.out" | sort | uniq -c
}

project() {
  mkdir -p "$work/$1/checkpoints" &&
    cp -r "$root/examples/pytorch-ddp/scripts" "$root/examples/mnist/data" "$work/$1/" &&
    cp "$here/allreduce.py" "$work/$1/scripts/"
}

last_epoch() { [[ -s $work/$1/checkpoints/epoch_2.pt ]]; check "the .pt of the last epoch"; }

# What the host reaches by itself.
bare() {
  timeout -k 10 60 "${torch}torchrun" --standalone --nproc_per_node=2 "$here/allreduce.py" 2>"$work/bare.log"
  check "$1"
}

# One host, two GPUs, the example under torchrun.
ddp() {
  one_agent || return
  timeout 20 convoke nodes --gpus
  project ddp
  service "${torch}torchrun --nproc_per_node=2 scripts/train.py --epochs 2" 1 2 >"$work/ddp/compose.yaml"
  trial ddp 150
  ls -l "$work/ddp/checkpoints"
  last_epoch ddp
}

# Two agents with one GPU each.
split() {
  two_agents || return
  project split
  service "${torch}torchrun --nproc_per_node=1 scripts/train.py --epochs 2" 2 1 >"$work/split/compose.yaml"
  trial split 150
  last_epoch split
  project sockets
  service "${torch}python scripts/allreduce.py" 2 1 $'    x-convoke: {ranks: per-gpu}\n' >"$work/sockets/compose.yaml"
  trial sockets 90
}

# A 1 GiB all-reduce: bare, in one container, in a container per GPU.
bandwidth() {
  if command -v "${torch}torchrun" >/dev/null; then bare "without Convoke"; fi
  one_agent || return
  project one
  service "${torch}torchrun --nproc_per_node=2 scripts/allreduce.py" 1 2 >"$work/one/compose.yaml"
  trial one 90
  project each
  service "${torch}python scripts/allreduce.py" 1 2 $'    x-convoke: {ranks: per-gpu}\n' >"$work/each/compose.yaml"
  trial each 90
  if command -v "${torch}torchrun" >/dev/null; then bare "without Convoke, again"; fi
}

run_sections "ddp split bandwidth" "ddp split bandwidth" "$@"
