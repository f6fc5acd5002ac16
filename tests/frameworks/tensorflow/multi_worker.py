"""Every worker gives its number and must see the sum: MultiWorkerMirroredStrategy over TF_CONFIG."""

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
rank, world = strategy.cluster_resolver.task_id, strategy.num_replicas_in_sync


@tf.function
def total():
    return strategy.reduce("SUM", strategy.run(lambda: tf.constant(rank)), axis=None)


result = int(total())
print(f"rank {rank} of {world}: the ranks add up to {result}", flush=True)
assert result == world * (world - 1) // 2
