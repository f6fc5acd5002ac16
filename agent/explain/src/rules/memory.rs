//! Memory: of the host, and of `/dev/shm`.

use crate::rule::On::{Failure, OomKilled, Output, Signal};
use crate::rule::Rule;
use crate::rule::When::{Always, MemoryFull, ShmFull};

const LIMIT: Option<&str> = Some("deploy.resources.limits.memory");
const RAISE: &str = "raise `deploy.resources.limits.memory`[ (say `memory: {more_memory}`)], or need less: smaller \
                     batches, fewer DataLoader workers";

const SHM: Option<&str> = Some("shm_size");
const SHM_FULL: &str = "/dev/shm was full[: its size is {shm_size}][, {shm_peak} were in use]";
const RAISE_SHM: &str = "raise `shm_size`[ (say `shm_size: {more_shm}`)], or use fewer DataLoader workers";

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "OutOfMemory",
        on: OomKilled,
        when: Always,
        summary: "the kernel killed a process of the task because its memory ran out[: it may use \
                  {limit}][ and used {peak}]",
        advice: RAISE,
        key: LIMIT,
    },
    Rule {
        cause: "SharedMemoryFull",
        on: Output(&[
            r"insufficient shared memory \(shm\)",
            r"workers are out of shared memory",
            r"unable to allocate shared memory\(shm\) for file",
            r"Error(?: while creating shared memory segment|: failed to extend) /dev/shm/nccl-",
        ]),
        when: Always,
        summary: SHM_FULL,
        advice: RAISE_SHM,
        key: SHM,
    },
    Rule {
        cause: "SharedMemoryFull",
        on: Failure(&[r"'?/dev/shm/[^ ']+'?: No space left on device"]),
        when: Always,
        summary: SHM_FULL,
        advice: RAISE_SHM,
        key: SHM,
    },
    Rule {
        cause: "SharedMemoryFull",
        on: Failure(&[r"\[Errno 28\] No space left on device"]),
        when: ShmFull,
        summary: SHM_FULL,
        advice: RAISE_SHM,
        key: SHM,
    },
    Rule {
        cause: "SharedMemoryFull",
        on: Signal(7),
        when: ShmFull,
        summary: SHM_FULL,
        advice: RAISE_SHM,
        key: SHM,
    },
    Rule {
        cause: "OutOfMemory",
        on: Output(&[r"DataLoader worker \(pid(?:\(s\))? [0-9, ]+\) is killed by signal: Killed"]),
        when: Always,
        summary: "a DataLoader worker was killed, as the kernel does when memory runs out[: it may use \
                  {limit}][ and used {peak}]",
        advice: RAISE,
        key: LIMIT,
    },
    Rule {
        cause: "OutOfMemory",
        on: Signal(9),
        when: MemoryFull,
        summary: "it was killed with its memory full[: it may use {limit}][ and used {peak}]",
        advice: RAISE,
        key: LIMIT,
    },
    Rule {
        cause: "AllocationFailed",
        on: Failure(&[
            r"^MemoryError\b",
            r"Unable to allocate (?P<asked>.+) for an array",
            r"can't allocate memory: you tried to allocate (?P<asked>[0-9]+ bytes)",
        ]),
        when: Always,
        summary: "the host's memory was not enough for what the program asked for at once[: {asked}][; it \
                  may use {limit}]",
        advice: "look for a wrong size in the program first; else raise `deploy.resources.limits.memory`, \
                 or use a node with more memory",
        key: LIMIT,
    },
];
