# PyTorch for CPUs: Debian's torch 1.13 with gloo, and the `torchrun` that pip would install.

fill() {
  local root=$1
  debian_root "$root" python3-torch python3-numpy
  cat >"$root/usr/local/bin/torchrun" <<'ENTRY'
#!/usr/bin/python3
import sys
from torch.distributed.run import main
sys.exit(main())
ENTRY
  chmod 755 "$root/usr/local/bin/torchrun"
  # Headers and static libraries: only for those who compile against torch.
  rm -rf "$root"/usr/lib/python3/dist-packages/torch/include
  find "$root/usr/lib" -name '*.a' -delete
  say "import torch"
  chroot "$root" python3 -c 'import torch, torch.distributed.run as r; assert torch.distributed.is_gloo_available()'
}
