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

# A minimal Debian with packages, made by debootstrap and trimmed of what no test reads.
debian_root() {
  local root=$1; shift
  command -v debootstrap >/dev/null || {
    say "installing debootstrap"
    apt-get update -qq
    apt-get install -qqy --no-install-recommends debootstrap >/dev/null
  }
  say "debootstrap"
  debootstrap --variant=minbase bookworm "$root" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; die "debootstrap failed"; }
  # Nothing of it has to survive a power cut, and documentation is not unpacked at all.
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
  printf 'path-exclude=%s\n' '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' \
    >"$root/etc/dpkg/dpkg.cfg.d/no-documentation"
  say "apt-get install $*"
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -qqy --no-install-recommends "$@" >"$root.log" 2>&1 ||
    { tail -20 "$root.log" >&2; die "apt-get install in the new root failed"; }
  ln -s python3 "$root/usr/bin/python"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
    "$root"/usr/share/{doc,man,locale,info} "$root"/usr/include
  mkdir -p "$root/workspace"
  chroot "$root" useradd --create-home --uid 1000 --shell /bin/sh user
}
