# Sourced by build.sh, whose recipes use it: what every image shares. Part of each image's hash.

say() { printf 'images: %s\n' "$*"; }
die() { printf 'images: %s\n' "$*" >&2; exit 1; }

# A whole tree and nothing mounted below it.
remove_tree() { rm -rf --one-file-system "$1"; }

# Debian packages by name, unpacked into a directory without their scripts.
unpack_packages() {
  local root=$1 work=$2; shift 2
  # A machine whose package lists were never fetched, or are stale, fetches them first.
  if ! (cd "$work" && apt-get download -qq "$@" 2>/dev/null); then
    apt-get update -qq
    (cd "$work" && apt-get download -qq "$@")
  fi
  for package in "$work"/*.deb; do dpkg -x "$package" "$root"; done
}

# The users that tests run as.
add_users() {
  local root=$1
  printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'user:x:1000:1000:user:/home/user:/bin/sh' \
    'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >"$root/etc/passwd"
  printf '%s\n' 'root:x:0:' 'user:x:1000:' 'nogroup:x:65534:' >"$root/etc/group"
  install -d -m 700 "$root/root"
  install -d -o 1000 -g 1000 "$root/home/user"
}
