"""Trains a small CNN on MNIST with DistributedDataParallel. Start it with torchrun.

NCCL on GPUs, gloo on CPUs. Nothing in here knows about Convoke.
"""

import argparse
import gzip
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def arguments():
    def setting(name, default):
        return type(default)(os.environ.get(name.upper(), default))

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="directory of MNIST's IDX files")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--epochs", type=int, default=setting("epochs", 5))
    parser.add_argument("--batch", type=int, default=setting("batch", 32), help="samples per rank and step")
    parser.add_argument("--limit", type=int, default=setting("limit", 0), help="train on so many images only")
    parser.add_argument("--lr", type=float, default=setting("lr", 1e-3))
    parser.add_argument("--seed", type=int, default=setting("seed", 1))
    return parser.parse_args()


def mnist(directory, part):
    """Images scaled to [0, 1], and labels. An IDX file is a header and bytes."""

    def read(name, header):
        with gzip.open(directory / name) as file:
            return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8)

    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28) / 255.0
    return TensorDataset(images, read(f"{part}-labels-idx1-ubyte.gz", 8).long())


def network():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        nn.Linear(128, 10),
    )


@torch.no_grad()
def accuracy(model, dataset, device):
    """On the test images, of which each rank takes its share."""
    model.eval()
    share = torch.arange(dist.get_rank(), len(dataset), dist.get_world_size())
    right = torch.zeros(1, device=device)
    for chosen in share.split(256):
        images, labels = dataset[chosen]
        right += (model(images.to(device)).argmax(1) == labels.to(device)).sum()
    dist.all_reduce(right)
    model.train()
    return right.item() / len(dataset)


def train(args, local_rank, device):
    rank, world = dist.get_rank(), dist.get_world_size()
    images, test = mnist(args.data, "train"), mnist(args.data, "t10k")
    if args.limit:
        images = TensorDataset(*images[: args.limit])
    sampler = DistributedSampler(images, seed=args.seed)
    loader = DataLoader(images, batch_size=args.batch, sampler=sampler)

    model = DDP(network().to(device), device_ids=[local_rank] if device.type == "cuda" else None)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    if rank == 0:
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters:,} parameters, {len(images):,} images, {world} ranks on {device.type}", flush=True)

    for epoch in range(1, args.epochs + 1):
        sampler.set_epoch(epoch)
        total = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        if local_rank == 0:
            print(f"Epoch {epoch}/{args.epochs}, Loss: {total / len(loader):.4f}", flush=True)
        score = accuracy(model.module, test, device)
        if rank == 0:
            print(f"Epoch {epoch}/{args.epochs}, Test accuracy: {score:.2%}", flush=True)
            state = {"epoch": epoch, "model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, args.checkpoints / f"epoch_{epoch}.pt")


def main():
    args = arguments()
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.manual_seed(args.seed)
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    dist.init_process_group("nccl" if cuda else "gloo")
    # The model is gone when the process group goes: the other way round, gloo of PyTorch 1.13
    # sometimes waits for itself for ever.
    train(args, local_rank, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
