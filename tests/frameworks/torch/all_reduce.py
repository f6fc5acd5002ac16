"""Every rank gives its number and must see the sum. Under torchrun, and as one process per rank."""

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
total = torch.tensor(rank)
dist.all_reduce(total)
print(f"rank {rank} of {world}: the ranks add up to {total.item()}", flush=True)
assert total.item() == world * (world - 1) // 2
dist.destroy_process_group()
