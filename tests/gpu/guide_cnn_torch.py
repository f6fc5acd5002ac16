"""The guide's CNN under PyTorch DDP with the whole step in a CUDA graph: what the trainer is compared with.

For each line on stdin, times --steps steps and prints a line of JSON; so its runs can take turns with others'.
"""
import argparse, json, os, sys, time

BEGAN = time.time()
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from guide_cnn import network, training

p = argparse.ArgumentParser()
p.add_argument("--batch", type=int, default=64)
p.add_argument("--steps", type=int, default=2000)
p.add_argument("--bf16", action="store_true")
p.add_argument("--tuned", action="store_true", help="channels_last, TF32 products")
a = p.parse_args()
rank, local, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
torch.cuda.set_device(local)
torch.backends.cudnn.benchmark = True
dist.init_process_group("nccl")
random = torch.Generator().manual_seed(rank)
images = torch.randn(60000 // world, 1, 28, 28, generator=random)
labels = torch.randint(0, 10, (60000 // world,), generator=random)
model = network()
if a.tuned:
    torch.set_float32_matmul_precision("high")
    model = model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    model = DistributedDataParallel(model, device_ids=[local])
_, step = training(model, a.bf16)
images, labels = images.cuda(), labels.cuda()


x, y = images[: a.batch].clone(), labels[: a.batch].clone()
step(x, y)
torch.cuda.synchronize()
first = time.time() - BEGAN
with torch.cuda.stream(side):
    for _ in range(11):
        step(x, y)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, stream=side):
    step(x, y)


def run(steps):
    for i in range(steps):
        at = i % (len(images) // a.batch) * a.batch
        x.copy_(images[at : at + a.batch])
        y.copy_(labels[at : at + a.batch])
        graph.replay()
    torch.cuda.synchronize()


print(json.dumps({"first_step_s": round(first, 2)}), flush=True)
for _ in sys.stdin:
    run(50)
    dist.barrier()
    begin = time.time()
    run(a.steps)
    dist.barrier()
    seconds = time.time() - begin
    print(json.dumps({"us_per_step": round(seconds / a.steps * 1e6, 1)}), flush=True)
dist.destroy_process_group()
