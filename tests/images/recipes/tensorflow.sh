# TensorFlow for CPUs: the wheels that pip installs.
# shellcheck source=/dev/null disable=SC2154  # build.sh sets it
source "$here/pip.sh"

fill() {
  local root=$1 work=$2
  debian_root "$root" python3
  install_wheels "$root" "$work" tensorflow-cpu==2.21.0
  # Headers: for those who compile against it.
  rm -rf "$root"/usr/local/lib/python3.11/dist-packages/tensorflow/include
  say "import tensorflow"
  TF_CPP_MIN_LOG_LEVEL=3 chroot "$root" python3 -c 'import tensorflow'
}
