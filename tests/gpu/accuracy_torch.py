"""The guide's CNN under PyTorch, the whole step in a CUDA graph, over several seeds: test accuracy of each.

accuracy_torch.py DATA SEEDS [--bf16]: the same digits, epochs, batch, optimiser and shuffling of every epoch as
`convoke-trainer --data DATA` has by default.
"""
import argparse, gzip, json, pathlib, statistics

import torch

from guide_cnn import network, training

p = argparse.ArgumentParser()
p.add_argument("data", type=pathlib.Path)
p.add_argument("seeds", type=int)
p.add_argument("--bf16", action="store_true")
p.add_argument("--epochs", type=int, default=16)
a = p.parse_args()
BATCH = 64


def digits(name):
    read = lambda kind: gzip.open(a.data / f"{name}-{kind}.gz").read()
    images = torch.frombuffer(bytearray(read("images-idx3-ubyte")[16:]), dtype=torch.uint8)
    labels = torch.frombuffer(bytearray(read("labels-idx1-ubyte")[8:]), dtype=torch.uint8)
    images = (images.reshape(-1, 1, 28, 28).float() / 255 - 0.1307) / 0.3081
    return images.cuda(), labels.long().cuda()


images, labels = digits("train")
test_images, test_labels = digits("t10k")
model = network()
optimizer, step = training(model, a.bf16)


def capture(size):
    """A step on `size` samples, which are put into x and y."""
    x, y = images[:size].clone(), labels[:size].clone()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(11):
            step(x, y)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        loss = step(x, y)
    return x, y, graph, loss


last = len(images) % BATCH or BATCH
steps = {size: capture(size) for size in {BATCH, last}}
accuracies = []
for seed in range(1, a.seeds + 1):
    torch.manual_seed(seed)
    for layer in model:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()
    for _ in range(a.epochs):
        for batch in torch.randperm(len(images), device="cuda").split(BATCH):
            x, y, graph, _ = steps[len(batch)]
            x.copy_(images[batch])
            y.copy_(labels[batch])
            graph.replay()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=a.bf16):
        accuracies.append((model(test_images).argmax(1) == test_labels).float().mean().item())
print(json.dumps({
    "trainer": "PyTorch, graph", "precision": "bf16" if a.bf16 else "fp32", "seeds": a.seeds,
    "accuracies": [round(x, 4) for x in accuracies], "mean": round(statistics.mean(accuracies), 4),
    "deviation": round(statistics.stdev(accuracies), 4),
}))
