# JAX for CPUs, with gloo collectives: the wheels that pip installs.
# shellcheck source=/dev/null disable=SC2154  # build.sh sets it
source "$here/pip.sh"

fill() {
  local root=$1 work=$2
  debian_root "$root" python3
  install_wheels "$root" "$work" jax==0.10.2 jaxlib==0.10.2
  say "import jax"
  chroot "$root" python3 -c 'import jax'
}
