#!/usr/bin/env bash
# Makes an image of a built convoke-trainer and the C library it was linked against: for tests, and
# for hosts that reach no image registry. CUDA's libraries are not in it (see Dockerfile for those),
# only what they need of the C library: a host's NVRTC and NCCL may be mounted.
# Usage: deploy/images/trainer-image.sh [BINARY [IMAGE]]
#        By default the newer of target/release and target/debug, as convoke-trainer:test.
set -euo pipefail

die() { printf 'trainer-image: %s\n' "$*" >&2; exit 1; }

cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
binary=$target/release/convoke-trainer
[[ $target/debug/convoke-trainer -nt $binary ]] && binary=$target/debug/convoke-trainer
binary=${1:-$binary}
image=${2:-convoke-trainer:test}
[[ -x $binary ]] || die "no binary \"$binary\"; run: cargo build --release -p convoke-trainer"

# Every library by the path that the loader has for it, and the loader itself.
mapfile -t libraries < <(ldd "$binary" | grep -o '/[^ ]*' | sort)
((${#libraries[@]})) || die "ldd names no library of $binary; is it a program for this machine?"
for library in libpthread.so.0 librt.so.1 libdl.so.2 libstdc++.so.6; do
  file=$(dirname "$(printf '%s\n' "${libraries[@]}" | grep -m 1 '/libc\.so')")/$library
  if [[ -e $file ]]; then libraries+=("$file"); fi
done
hash=$(cat "$binary" "${libraries[@]}" "$0" | sha256sum | cut -c 1-16)
label=convoke.trainer.content
if [[ $(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null) == "$hash" ]]; then
  printf 'trainer-image: %s is there\n' "$image"
  exit
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{data,dev,etc,proc,sys,workspace}
install -d -m 1777 "$root/tmp"
echo 'root:x:0:0:root:/:/bin/false' >"$root/etc/passwd"
install -D "$binary" "$root/usr/local/bin/convoke-trainer"
for library in "${libraries[@]}"; do install -D "$library" "$root$library"; done
tar --numeric-owner --owner=0 --group=0 -C "$root" -c . | docker import \
  --change 'ENV PATH=/usr/local/bin' --change 'WORKDIR /workspace' --change 'CMD ["convoke-trainer", "--help"]' \
  --change "LABEL $label=$hash" - "$image" >/dev/null
# Seen to start, or it is no image of a trainer.
docker run --rm --network none "$image" convoke-trainer --help >/dev/null
printf 'trainer-image: %s is built of %s\n' "$image" "$binary"
