#!/usr/bin/env bash
# The CUDA trainer on a GPU host: tests, speed beside PyTorch's, accuracy over seeds. Each section takes less than
# 4 minutes and can be run again alone. What it printed where is in docs/benchmarks.md.
# Usage: tests/gpu/trainer.sh [tests] [bench] [accuracy] [job]      (without: the first three)
# TRAINER, TESTS: the release builds of convoke-trainer and of its test `cuda`; DATA: MNIST's files;
# PYTHON: one with PyTorch; GPUS: how many there are, 1 or 2. The job needs convoke and convoke-agent in PATH and a
# Docker Engine with IMAGE; MOUNTS are host directories, mounted as they are, where that image has no NVRTC and NCCL;
# NETWORK=host where the engine has no bridge.
# shellcheck disable=SC2317  # sections are called by name
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
trainer=${TRAINER:-$root/target/release/convoke-trainer}
data=${DATA:-$root/examples/mnist/data}
python=${PYTHON:-python3}

tests() {
  CONVOKE_TEST_GPU=${GPUS:-1} CONVOKE_TEST_PYTHON=$python timeout -k 10 220 "${TESTS:?the test binary}" --color never
  check tests
}

# On 60,000 digits: the example's again and again.
bench() {
  local big=$work/digits
  mkdir "$big"
  "$python" - "$data" "$big" <<'P'
import gzip, pathlib, struct, sys
data, big = map(pathlib.Path, sys.argv[1:])
for name, count in ("train", 60000), ("t10k", 1000):
    for kind, size, header in ("images-idx3", 784, (0x803, count, 28, 28)), ("labels-idx1", 1, (0x801, count)):
        values = gzip.open(data / f"{name}-{kind}-ubyte.gz").read()[4 * len(header):]
        values = (values * -(-count * size // len(values)))[: count * size]
        (big / f"{name}-{kind}-ubyte").write_bytes(struct.pack(f">{len(header)}I", *header) + values)
P
  check "the digits" || return
  timeout -k 10 230 "$python" "$here/bench.py" "$trainer" "$big" "${RUNS:-7}"
  check bench
}

# 16 epochs of the example's digits, 10 seeds.
accuracy() {
  local precision seed found
  for precision in fp32 tf32 bf16; do
    printf 'ours %s:' "$precision"
    for seed in {1..10}; do
      timeout -k 10 30 "$trainer" --data "$data" --device cuda --precision "$precision" --seed "$seed" \
        >"$work/$precision-$seed.log" 2>&1
      check "$precision, seed $seed"
      found=$(sed -n 's/^Test accuracy: \([0-9.]*\) .*/\1/p' "$work/$precision-$seed.log")
      [[ -n $found ]]
      check "an accuracy of $precision, seed $seed" && { printf ' %s' "$found"; rm "$work/$precision-$seed.log"; }
    done
    echo
  done
  for precision in "" --bf16; do
    # shellcheck disable=SC2086  # nothing, or a flag
    timeout -k 10 90 "$python" "$here/accuracy_torch.py" "$data" 10 $precision
    check "PyTorch's accuracy $precision"
  done
}

# The example through convoke, in a container.
job() {
  local file=$work/mnist/docker-compose.gpu.yml volume
  cp -r "$root/examples/mnist" "$work/mnist"
  if [[ -n ${NETWORK:-} ]]; then sed -i "s|^    image:|    network_mode: $NETWORK\n&|" "$file"; fi
  for volume in ${MOUNTS:-}; do sed -i "s|^    volumes:|&\n      - $volume:$volume:ro|" "$file"; done
  coordinator || return
  agent gpu-a
  nodes 1 || return
  (cd "$work/mnist" && REPLICAS=1 IMAGE=${IMAGE:-convoke-trainer} timeout -k 20 90 convoke up -f docker-compose.gpu.yml)
  check "the job"
  timeout 20 convoke metrics mnist-train --output json >"$work/metrics"
  check "its metrics"
  grep -m 1 seconds_to_first_step "$work/metrics"
  check "its first step"
  timeout 20 convoke checkpoint ls mnist-train
  check "its checkpoints"
}

run_sections "tests bench accuracy" "tests bench accuracy job" "$@"
