# shellcheck shell=bash
# Sourced by the scripts beside it: sections, each in a shell and a directory of its own, that say PASS or FAIL and let
# the next one go on, with a coordinator and agents that are gone with the section. No pipe ends in a reader that stops
# early (head, grep -q, grep -m): under pipefail its writer's SIGPIPE would count as a failure.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # for the scripts
root=$here/../..
# NVLink's multicast is off where the host says so; a job's processes are to agree.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
failed=0
background=()

# check WHAT: whether the command before it succeeded; a section with one that did not has failed.
check() {
  local rc=$?
  if ((rc)); then printf 'FAILED: %s (exit code %s)\n' "$1" "$rc"; failed=1; fi
  return "$rc"
}

# start NAME COMMAND…: until the section ends, for 15 minutes at most; what it prints is in $work/NAME.log.
start() {
  timeout -k 10 900 "${@:2}" >"$work/$1.log" 2>&1 &
  background+=($!)
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if ((SECONDS >= deadline)); then false; check "$what in time"; return; fi
    sleep 0.2
  done
}

coordinator() {
  start coordinator convoke serve --data-dir "$work/coordinator" --listen 127.0.0.1:0 --address-file "$work/address"
  await 20 "the coordinator's address" test -s "$work/address" || return
  CONVOKE_COORDINATOR=http://$(<"$work/address")
  export CONVOKE_COORDINATOR
}
agent() { start "$1" convoke-agent --node "$1" --state-dir "$work/$1" "${@:2}"; } # NAME OPTIONS…
ready() { [[ $(timeout 10 convoke nodes 2>/dev/null | grep -c ' ready ') == "$1" ]]; }
nodes() { await 30 "$1 ready nodes" ready "$1"; } # COUNT

# The containers that a section's agents made and did not remove: their tasks would hold GPUs of the next one.
remove_containers() {
  local file instance left
  for file in "$work"/*/agent.json; do
    [[ -e $file ]] || continue
    instance=$(sed -n 's/.*"instance": *"\([^"]*\)".*/\1/p' "$file")
    [[ -n $instance ]] || continue
    mapfile -t left < <(timeout 20 docker ps -aq --filter "label=convoke.instance=$instance" 2>/dev/null)
    ((${#left[@]} == 0)) || timeout 30 docker rm -f "${left[@]}" >/dev/null
  done
}

tidy() {
  local rc=$? log
  ((${#background[@]} == 0)) || { kill "${background[@]}"; wait "${background[@]}"; } 2>/dev/null
  remove_containers
  if ((rc)); then
    for log in "$work"/*.log; do
      [[ ! -s $log ]] || { printf -- '--- the end of %s\n' "${log##*/}"; tail -n 20 "$log"; }
    done
  fi
  rm -rf "$work"
}

section() {
  work=$(mktemp -d) || exit
  trap tidy EXIT
  "$1"
  exit "$failed"
}

# run_sections DEFAULT KNOWN [NAME…]: the named ones of those that are known (words in a string), or the default ones.
run_sections() {
  local default=$1 known=$2 name rc=0 verdicts=()
  shift 2
  # shellcheck disable=SC2086  # words
  (($#)) || set -- $default
  for name; do
    [[ " $known " == *" $name "* ]] || { printf 'no section %s: %s\n' "$name" "$known" >&2; exit 2; }
  done
  for name; do
    printf '\n=== %s (%ss)\n' "$name" "$SECONDS"
    if (section "$name"); then verdicts+=("PASS $name"); else verdicts+=("FAIL $name"); rc=1; fi
    printf '%s\n' "${verdicts[-1]}"
  done
  printf '\n=== end (%ss)\n' "$SECONDS"
  printf '%s\n' "${verdicts[@]}"
  exit "$rc"
}
