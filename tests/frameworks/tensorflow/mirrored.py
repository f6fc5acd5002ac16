"""Every device of one host gives its number and must see the sum: MirroredStrategy."""

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
if not tf.config.list_physical_devices("GPU"):
    # Two devices out of one processor, so that there is something to reduce.
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
    strategy = tf.distribute.MirroredStrategy()
world = strategy.num_replicas_in_sync


@tf.function
def total():
    def number():
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    return strategy.reduce("SUM", strategy.run(number), axis=None)


result = int(total())
print(f"{world} devices: their numbers add up to {result}", flush=True)
assert result == world * (world - 1) // 2
