"""Every process gives its number and must see the sum."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.distributed.initialize()
rank, world = jax.process_index(), jax.process_count()
mesh = jax.make_mesh((jax.device_count(),), ("devices",))
mine = np.full(jax.local_device_count(), rank / jax.local_device_count())
ranks = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("devices")), mine)
total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ranks)
print(f"rank {rank} of {world}: the ranks add up to {total:.0f}", flush=True)
assert round(float(total)) == world * (world - 1) // 2
