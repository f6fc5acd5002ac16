# Sourced by recipes of images that hold wheels: what of it is not in lib.sh, so that a change here
# leaves the other images as they are.

# Wheels for the root's Python 3.11, by a pip that stays outside.
install_wheels() {
  local root=$1 work=$2; shift 2
  python3 -c 'import venv, ensurepip' 2>/dev/null || {
    say "installing python3-venv"
    apt-get update -qq
    apt-get install -qqy --no-install-recommends python3-venv >/dev/null
  }
  python3 -m venv "$work/pip"
  say "pip install $*"
  "$work/pip/bin/pip" install --quiet --no-compile --only-binary=:all: --python-version 3.11 \
    --target "$root/usr/local/lib/python3.11/dist-packages" "$@"
}
