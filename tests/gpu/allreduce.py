"""Bus bandwidth of an all-reduce over the ranks that the environment tells of (env://), one GPU each.

Prints one line of JSON on rank 0. The local rank picks the GPU, as every PyTorch script does.
"""
import json, os, time
import torch, torch.distributed as dist

local = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local)
dist.init_process_group("nccl")
rank, world = dist.get_rank(), dist.get_world_size()
values = torch.ones(2**28, device="cuda")  # 1 GiB of float32
dist.all_reduce(values)
assert values[0].item() == values[-1].item() == world, values[0].item()
times = []
for _ in range(7):
    torch.cuda.synchronize()
    dist.barrier()
    torch.cuda.synchronize()
    begin = time.time()
    for _ in range(5):
        dist.all_reduce(values)
    torch.cuda.synchronize()
    times.append((time.time() - begin) / 5)
bus = sorted(2 * (world - 1) / world * values.numel() * 4 / t / 1e9 for t in times)
if rank == 0:
    print(json.dumps({"world": world, "bus_gb_s": round(bus[3], 1), "least": round(bus[0], 1), "most": round(bus[-1], 1)}), flush=True)
dist.destroy_process_group()
