"""Loads a checkpoint into the guide's nn.Sequential and compares its logits with the trainer's.

logits.py DIRECTORY CHECKPOINT TOLERANCE: DIRECTORY holds the checkpoint, `images` (bytes, 28 x 28 each) and
`logits` (10 floats each); the tolerance is on the norm of the difference, as a part of the logits' norm.
"""
import json, pathlib, struct, sys

import torch
from torch import nn

directory, checkpoint, tolerance = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])


def load(path):
    """A safetensors file, whose reader is not everywhere that PyTorch is."""
    raw = path.read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    data = bytearray(raw[8 + size :])
    header.pop("__metadata__", None)
    assert all(tensor["dtype"] == "F32" for tensor in header.values())
    floats = lambda t: torch.frombuffer(data[slice(*t["data_offsets"])], dtype=torch.float32)
    return {name: floats(tensor).reshape(tensor["shape"]) for name, tensor in header.items()}


model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
)
model.load_state_dict(load(directory / checkpoint / "model.safetensors"))
images = torch.frombuffer(bytearray((directory / "images").read_bytes()), dtype=torch.uint8)
images = (images.reshape(-1, 1, 28, 28).float() / 255 - 0.1307) / 0.3081
ours = torch.frombuffer(bytearray((directory / "logits").read_bytes()), dtype=torch.float32).reshape(-1, 10)
with torch.no_grad():
    theirs = model(images)
error = ((ours - theirs).norm() / theirs.norm()).item()
same = (ours.argmax(1) == theirs.argmax(1)).float().mean().item()
print(f"logits of {len(ours)} images: off by {error:.2e} of their norm ({tolerance:g} allowed), same digit for {same:.1%}")
sys.exit(not error <= tolerance)
