#!/usr/bin/env bash
# Builds the images that the container tests run in, from Debian packages; no image registry is asked.
# Usage: tests/images/build.sh [NAME...]     Names: see recipes/. Without one: base torch.
#
# An image that the engine already has from the same recipe is skipped. Root file systems are kept as
# tarballs in $CONVOKE_IMAGE_CACHE, so that a new engine costs an import and not a build.
# Needs root (chroot, apt-get) and a Docker Engine that `docker` reaches.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CONVOKE_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/convoke-test-images}
label=convoke.test.recipe
# shellcheck source=lib.sh
source "$here/lib.sh"

# What an image is made of, with what its recipe sources: changed, it is another image.
recipe_hash() {
  local recipe=$here/recipes/$1.sh parts=(lib.sh)
  ! grep -q pip.sh "$recipe" || parts+=(pip.sh)
  (cd "$here" && cat "${parts[@]}" "$recipe") | sha256sum | cut -c 1-16
}

# The recipe fills a directory, which becomes a tarball. Renamed into place when it is whole, so that
# an interrupted build leaves nothing that looks finished.
make_tarball() {
  local name=$1 tarball=$2 work
  work=$(mktemp -d "$cache/$name.XXXXXX")
  # shellcheck disable=SC2064  # the directory of this call
  trap "remove_tree '$work'" EXIT
  mkdir "$work/root"
  # shellcheck source=/dev/null
  (source "$here/recipes/$name.sh"; fill "$work/root" "$work")
  tar --numeric-owner --sort=name -C "$work/root" -cf "$work/root.tar" .
  mv "$work/root.tar" "$tarball"
  remove_tree "$work"
  trap - EXIT
  # Older recipes' tarballs are of no use.
  find "$cache" -maxdepth 1 -name "$name-*.tar" ! -path "$tarball" -delete
}

build() {
  local name=$1 image="convoke-test/$1:1" hash tarball old
  hash=$(recipe_hash "$name")
  tarball=$cache/$name-$hash.tar
  if [[ $(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null) == "$hash" ]]; then
    say "$image is there"
    return
  fi
  mkdir -p "$cache"
  # Another build of the same image is waited for: 15 minutes is longer than the slowest one takes.
  exec 9>"$cache/$name.lock"
  flock -w 900 9 || die "another build of $image holds $cache/$name.lock; wait for it, or end it"
  if [[ ! -f $tarball ]]; then
    say "$image: building its root file system"
    make_tarball "$name" "$tarball"
  fi
  say "$image: importing $(du -h "$tarball" | cut -f 1)"
  old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
  docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'CMD ["/bin/sh"]' \
    --change "LABEL $label=$hash" \
    "$tarball" "$image" >/dev/null
  # What the name stood for before is not kept, unless another name or a container has it.
  if [[ $(docker image inspect --format '{{len .RepoTags}}' "$old" 2>/dev/null) == 0 ]]; then
    docker image rm "$old" >/dev/null 2>&1 || true
  fi
  exec 9>&-
  say "$image is built (${SECONDS}s)"
}

(($#)) || set -- base torch
for name in "$@"; do
  [[ $name =~ ^[a-z]+$ && -f $here/recipes/$name.sh ]] ||
    die "no recipe for \"$name\"; there are: $(cd "$here/recipes" && echo *.sh | sed 's/\.sh//g')"
done
docker version --format '{{.Server.Version}}' >/dev/null || die "no Docker Engine answers; start one, or set DOCKER_HOST"
for name in "$@"; do build "$name"; done
