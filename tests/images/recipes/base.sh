# A shell and busybox's applets, in 2 MB: for tests of containers that need no framework.

fill() {
  local root=$1 work=$2 applet
  unpack_packages "$root" "$work" busybox-static
  rm -rf "${root:?}/usr"
  mkdir -p "$root"/{dev,etc,home,proc,run,sbin,sys,usr/bin,usr/sbin,var/log,workspace}
  install -d -m 1777 "$root/tmp" "$root/var/tmp"
  add_users "$root"
  # An applet stands where the list says; one of these is /bin/sh.
  for applet in $("$root/bin/busybox" --list-full); do
    [[ $applet == bin/busybox ]] || { mkdir -p "$root/${applet%/*}"; ln -s /bin/busybox "$root/$applet"; }
  done
}
