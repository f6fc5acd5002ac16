"""The guide's CNN and its training under PyTorch, as `convoke-trainer` has them."""
import torch
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    ).cuda()


def training(model, bf16):
    """The optimiser of `model` and its step on a batch, both fit for a CUDA graph."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=True, fused=True)
    criterion = nn.CrossEntropyLoss()

    def step(x, y):
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return optimizer, step
