#!/usr/bin/env bash
# Containers with GPUs through Convoke, on a host with an NVIDIA driver and a Docker Engine: that a job sees
# the GPUs it reserved, and one that reserved none sees none. Needs convoke and convoke-agent in PATH, and an
# image with a shell (default: convoke-test/base:1 of tests/images/build.sh); the host's own /usr is mounted
# for nvidia-smi and its libraries. What it printed where is in docs/gpu.md.
set -euo pipefail

image=${1:-convoke-test/base:1}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

convoke serve --data-dir "$work/coordinator" --listen 127.0.0.1:0 --address-file "$work/address" \
  >"$work/coordinator.log" 2>&1 &
until [ -s "$work/address" ]; do sleep 0.1; done
CONVOKE_COORDINATOR=http://$(cat "$work/address")
export CONVOKE_COORDINATOR
convoke-agent --node gpu-a --state-dir "$work/agent" >"$work/agent.log" 2>&1 &
until convoke nodes | grep -q ready; do sleep 0.2; done
convoke nodes

host=(-v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro)
echo '--- every GPU of every node'
convoke run --nodes all --gpus all "${host[@]}" "$image" nvidia-smi -L
echo '--- one GPU'
convoke run --gpus 1 "${host[@]}" "$image" sh -c 'env | grep VISIBLE; ls /dev/nvidia[0-9]*'
echo '--- none'
if convoke run "${host[@]}" "$image" sh -c 'ls /dev/nvidia0 || nvidia-smi -L'; then
  echo 'a job that reserved no GPU sees one' >&2
  exit 1
fi
