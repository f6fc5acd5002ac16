#!/usr/bin/env bash
# The CUDA trainer on a GPU host: tests, speed beside PyTorch's, accuracy over seeds. Each section takes less than
# 4 minutes and can be run again alone. What it printed where is in docs/benchmarks.md.
# Usage: tests/gpu/trainer.sh [tests] [bench] [accuracy] [job]      (without: the first three)
# TRAINER, TESTS: the release builds of convoke-trainer and of its test `cuda`; DATA: MNIST's files;
# PYTHON: one with PyTorch; GPUS: how many there are, 1 or 2. The job needs convoke and convoke-agent in PATH and a
# Docker Engine with IMAGE; MOUNTS are host directories, mounted as they are, where that image has no NVRTC and NCCL;
# NETWORK=host where the engine has no bridge.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
trainer=${TRAINER:-$root/target/release/convoke-trainer}
data=${DATA:-$root/examples/mnist/data}
python=${PYTHON:-python3}
# NVLink's multicast is off where the host says so; a job's processes are to agree.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
failed=0
section() { printf '\n=== %s (%ss)\n' "$*" "$SECONDS"; }
check() { local rc=$?; if ((rc)); then printf 'FAILED: %s (exit code %s)\n' "$1" "$rc"; failed=1; fi; }

tests() {
  section tests
  CONVOKE_TEST_GPU=${GPUS:-1} CONVOKE_TEST_PYTHON=$python timeout 220 "${TESTS:?the test binary}" --color never
  check tests
}

bench() {
  section "bench: 60,000 digits, the example's again and again"
  local big; big=$(mktemp -d)
  "$python" - "$data" "$big" <<'P'
import gzip, pathlib, struct, sys
data, big = map(pathlib.Path, sys.argv[1:])
for name, count in ("train", 60000), ("t10k", 1000):
    for kind, size, header in ("images-idx3", 784, (0x803, count, 28, 28)), ("labels-idx1", 1, (0x801, count)):
        values = gzip.open(data / f"{name}-{kind}-ubyte.gz").read()[4 * len(header):]
        values = (values * -(-count * size // len(values)))[: count * size]
        (big / f"{name}-{kind}-ubyte").write_bytes(struct.pack(f">{len(header)}I", *header) + values)
P
  timeout 230 "$python" "$here/bench.py" "$trainer" "$big" "${RUNS:-7}"
  check bench
  rm -rf "$big"
}

accuracy() {
  section "accuracy: 16 epochs of the example's digits, 10 seeds"
  local precision seed
  for precision in fp32 tf32 bf16; do
    printf 'ours %s:' "$precision"
    for seed in {1..10}; do
      timeout 30 "$trainer" --data "$data" --device cuda --precision "$precision" --seed "$seed" |
        sed -n 's/^Test accuracy: \([0-9.]*\) .*/ \1/p' | tr -d '\n'
      check "seed $seed"
    done
    echo
  done
  for precision in "" --bf16; do
    timeout 90 "$python" "$here/accuracy_torch.py" "$data" 10 $precision
    check "PyTorch's accuracy $precision"
  done
}

job() {
  section "job: the example through convoke, in a container"
  local work address file volume
  work=$(mktemp -d)
  cp -r "$root/examples/mnist" "$work/mnist"
  file=$work/mnist/docker-compose.gpu.yml
  if [[ -n ${NETWORK:-} ]]; then sed -i "s|^    image:|    network_mode: $NETWORK\n&|" "$file"; fi
  for volume in ${MOUNTS:-}; do sed -i "s|^    volumes:|&\n      - $volume:$volume:ro|" "$file"; done
  convoke serve --data-dir "$work/coordinator" --listen 127.0.0.1:0 --address-file "$work/address" \
    >"$work/coordinator.log" 2>&1 & local coordinator=$!
  timeout 20 sh -c "until [ -s '$work/address' ]; do sleep 0.1; done"
  address=http://$(cat "$work/address")
  CONVOKE_COORDINATOR=$address convoke-agent --node gpu-a --state-dir "$work/agent" >"$work/agent.log" 2>&1 &
  local agent=$!
  export CONVOKE_COORDINATOR=$address
  timeout 20 sh -c 'until convoke nodes | grep -q ready; do sleep 0.2; done'
  check "a node"
  (cd "$work/mnist" && REPLICAS=1 IMAGE=${IMAGE:-convoke-trainer} timeout 90 convoke up -f docker-compose.gpu.yml)
  check "the job"
  convoke metrics mnist-train --output json | grep -m 1 seconds_to_first_step
  check "its first step"
  convoke checkpoint ls mnist-train
  kill "$agent" "$coordinator"
  wait "$agent" "$coordinator" 2>/dev/null
  ((failed)) && tail -n 20 "$work"/*.log
  rm -rf "$work"
}

if (($# == 0)); then set -- tests bench accuracy; fi
for name in "$@"; do
  case $name in
    tests | bench | accuracy | job) "$name" ;;
    *) echo "no section $name: tests, bench, accuracy, job" >&2; exit 2 ;;
  esac
done
section done
exit "$failed"
