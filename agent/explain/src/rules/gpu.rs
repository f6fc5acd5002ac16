//! CUDA: memory, drivers, devices.

use crate::rule::On::{Failure, Output};
use crate::rule::Rule;
use crate::rule::When::Always;

const DEVICES: Option<&str> = Some("deploy.resources.reservations.devices");

pub(super) const RULES: &[Rule] = &[
    Rule {
        cause: "GpuFault",
        on: Failure(&[r"uncorrectable ECC error encountered"]),
        when: Always,
        summary: "a GPU[ of {node}] reports uncorrectable memory errors: the hardware, not the program",
        advice: "keep jobs off that node until the GPU is reset or replaced, with \
                 `deploy.placement.constraints` (node.hostname != …)",
        key: Some("deploy.placement.constraints"),
    },
    Rule {
        cause: "CudaOutOfMemory",
        on: Failure(&[
            r"CUDA out of memory\. Tried to allocate (?P<asked>[0-9.]+ .i?B).*Process [0-9]+ has (?P<other>[0-9.]+ .i?B) memory in use",
        ]),
        when: Always,
        summary: "the GPU's memory is not enough: {asked} more were asked for, and another process holds \
                  {other} of it",
        advice: "several ranks may use one GPU: each should take the one of its LOCAL_RANK; else reserve \
                 GPUs of its own in `deploy.resources.reservations.devices`, or see who holds them with \
                 `convoke nodes`",
        key: DEVICES,
    },
    Rule {
        cause: "CudaOutOfMemory",
        on: Failure(&[
            r"CUDA out of memory\. Tried to allocate (?P<asked>[0-9.]+ .i?B).*total capacity of (?P<total>[0-9.]+ .i?B) of which (?P<free>[0-9.]+ .i?B) is free",
            r"CUDA out of memory\. Tried to allocate (?P<asked>[0-9.]+ .i?B) \(GPU [0-9]+; (?P<total>[0-9.]+ .i?B) total capacity;.* (?P<free>[0-9.]+ (?:.i)?[Bb](?:ytes)?) free;",
            r"RESOURCE_EXHAUSTED: Out of memory while trying to allocate (?P<asked>[0-9.]+ ?.i?B)",
            r"OOM when allocating tensor with shape(?P<shape>\[[0-9,]+\])",
            r"CUDA error: out of memory",
        ]),
        when: Always,
        summary: "the GPU's memory is not enough[: {asked} more were asked for][, {free}][ of {total} were \
                  free][: for a tensor of {shape}]",
        advice: "lower the batch size in `command` (or use gradient accumulation, mixed precision, or more \
                 GPUs)",
        key: Some("command"),
    },
    Rule {
        cause: "CudaOutOfMemory",
        on: Output(&[r"CUDA_ERROR_OUT_OF_MEMORY"]),
        when: Always,
        summary: "the GPU's memory was not even enough to begin: another process holds it",
        advice: "reserve GPUs of its own in `deploy.resources.reservations.devices`; see who holds them \
                 with `convoke nodes`",
        key: DEVICES,
    },
    Rule {
        cause: "DuplicateGpu",
        on: Failure(&[
            r"Duplicate GPU detected : rank (?P<one>[0-9]+) and rank (?P<two>[0-9]+) both on CUDA device",
        ]),
        when: Always,
        summary: "ranks {one} and {two} use the same GPU, which NCCL refuses",
        advice: "call torch.cuda.set_device with LOCAL_RANK first, and start no more processes than GPUs \
                 (`--nproc_per_node` in `command`)",
        key: Some("command"),
    },
    Rule {
        cause: "DriverTooOld",
        on: Failure(&[
            r"The NVIDIA driver on your system is too old \(found version (?P<version>[0-9]+)\)",
            r"CUDA driver version is insufficient for CUDA runtime version",
        ]),
        when: Always,
        summary: "the image's CUDA is newer than the NVIDIA driver[ of {node}] can do[ (driver's CUDA \
                  {version})]",
        advice: "use an `image` built for an older CUDA, or update the driver there",
        key: Some("image"),
    },
    Rule {
        cause: "GpuNotSupported",
        on: Failure(&[r"no kernel image is available for execution on the device"]),
        when: Always,
        summary: "the image's program was not built for this kind of GPU[ (on {node})]",
        advice: "use an `image` whose CUDA and framework know this GPU, or keep to other nodes with \
                 `deploy.placement.constraints`",
        key: Some("image"),
    },
    Rule {
        cause: "CudaNotInImage",
        on: Failure(&[r"Torch not compiled with CUDA enabled", r"Distributed package doesn't have NCCL"]),
        when: Always,
        summary: "the PyTorch in the image[ {image}] is a build without CUDA",
        advice: "use an `image` with a CUDA build of PyTorch, or keep to the CPU and gloo",
        key: Some("image"),
    },
    Rule {
        cause: "CudaUnavailable",
        on: Failure(&[
            r"No CUDA GPUs are available",
            r"Found no NVIDIA driver on your system",
            r"libcuda\.so\.1: cannot open shared object file",
            r"Unable to initialize backend 'cuda'",
        ]),
        when: Always,
        summary: "the program looked for a GPU and sees none",
        advice: "reserve GPUs under `deploy.resources.reservations.devices`, and leave \
                 CUDA_VISIBLE_DEVICES to Convoke",
        key: DEVICES,
    },
    Rule {
        cause: "GpuNotVisible",
        on: Failure(&[r"CUDA error: invalid device ordinal"]),
        when: Always,
        summary: "the program chose a GPU by a number that the task does not have",
        advice: "number from 0 by LOCAL_RANK, not by RANK; or raise `count` in \
                 `deploy.resources.reservations.devices`",
        key: DEVICES,
    },
    Rule {
        cause: "CudaAssert",
        on: Failure(&[r"CUDA error: device-side assert triggered"]),
        when: Always,
        summary: "a check inside a GPU kernel failed, mostly an index or a label out of range",
        advice: "look for a label or token beyond the size of its layer; with CUDA_LAUNCH_BLOCKING=1 in \
                 `environment` the traceback names the right line",
        key: Some("environment"),
    },
    Rule {
        cause: "CudaIllegalAccess",
        on: Failure(&[r"an illegal memory access was encountered"]),
        when: Always,
        summary: "a GPU kernel touched memory that is not its own",
        advice: "a custom kernel is the first suspect; with CUDA_LAUNCH_BLOCKING=1 in `environment` the \
                 traceback names the right line",
        key: Some("environment"),
    },
];
