#!/usr/bin/env bash
# Containers with GPUs through Convoke, on a host with an NVIDIA driver and a Docker Engine: that a job sees
# the GPUs it reserved, and one that reserved none sees none. Needs convoke and convoke-agent in PATH, and an
# image with a shell (default: convoke-test/base:1 of tests/images/build.sh); the host's own /usr is mounted
# for nvidia-smi and its libraries. What it printed where is in docs/gpu.md.
# shellcheck disable=SC2317  # sections are called by name
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
image=${1:-convoke-test/base:1}

# run OPTIONS… -- COMMAND…: in a container of the image.
run() {
  local options=()
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  timeout -k 10 90 convoke run "${options[@]}" -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro "$image" "${@:2}"
}

containers() {
  coordinator || return
  agent gpu-a
  nodes 1 || return
  timeout 20 convoke nodes
  check "the list of nodes"
  echo '--- every GPU of every node'
  run --nodes all --gpus all -- nvidia-smi -L
  check "every GPU"
  echo '--- one GPU'
  # shellcheck disable=SC2016  # the container's shell counts
  run --gpus 1 -- sh -c 'env | grep VISIBLE; set -- /dev/nvidia[0-9]*; echo "$@"; test "$#" = 1 && test -e "$1"'
  check "one GPU of one"
  echo '--- none'
  run -- sh -c '! ls /dev/nvidia0 && ! nvidia-smi -L'
  check "no GPU where none is reserved"
}

run_sections containers containers
