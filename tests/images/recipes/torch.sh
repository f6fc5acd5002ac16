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
  # Debian pairs torch 1.13 with Python 3.11, where looping over a flag type skips 0 and 3: torchrun
  # would then fail on its own default for --redirects. Later torch has the like of this.
  local api=$root/usr/lib/python3/dist-packages/torch/distributed/elastic/multiprocessing/api.py
  sed -i 's/for s in Std:/for s in Std.__members__.values():/' "$api"
  # Headers and static libraries: only for those who compile against torch.
  rm -rf "$root"/usr/lib/python3/dist-packages/torch/include
  find "$root/usr/lib" -name '*.a' -delete
  say "import torch"
  chroot "$root" python3 - <<'CHECK'
import torch.distributed
from torch.distributed.elastic.multiprocessing import Std
assert torch.distributed.is_gloo_available()
assert [Std.from_str(text) for text in "0123"] == [Std.NONE, Std.OUT, Std.ERR, Std.ALL]
CHECK
}
