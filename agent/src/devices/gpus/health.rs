//! From what was seen of a GPU to its named problems: pure.

use convoke_model::DeviceCondition;

use super::state::{Errors, Gpu, Trouble};
use super::xid::{Gravity, gravity, meaning};

const RESET: &str = "stop what uses it and this agent (its tasks go on), reset it with `nvidia-smi --gpu-reset`, \
                     and start the agent again";

/// A GPU that is not on the bus can be reset by nobody.
const FELL_OFF: u64 = 79;
const RESTART: &str =
    "the kernel's log tells more (`dmesg | grep -i xid`), and a restart of the host may bring it back";

/// What is wrong with it. Messages have no numbers that grow, so that they change only when people
/// have something new to read.
pub(super) fn problems(gpu: &Gpu) -> Vec<DeviceCondition> {
    let errors = gpu.sample.as_ref().map_or(Errors::default(), |sample| sample.errors);
    let split = gpu.device.gpu.as_ref().is_some_and(|info| info.mig == Some(true));
    let mut found = Vec::new();
    let mut say = |name: &str, blocks: bool, message: String| {
        let message = format!("GPU {}: {message}", gpu.device.index);
        found.push(DeviceCondition { device: gpu.device.id.clone(), name: name.to_owned(), message, blocks });
    };
    match &gpu.trouble {
        Some(Trouble::Lost) => {
            say("GpuLost", true, format!("it has fallen off the bus or is no longer listed; {RESTART}"))
        }
        Some(Trouble::ResetRequired) => say("GpuResetRequired", true, format!("it needs a reset: {RESET}")),
        Some(Trouble::Failing(error)) => {
            say("GpuFailing", true, format!("it does not answer: {error}; `nvidia-smi -q` tells more"));
        }
        None => {}
    }
    if let Some(code) = gpu.grave_xid {
        let blocks = gravity(code) == Gravity::Fatal;
        let advice = if code == FELL_OFF { RESTART } else { RESET };
        say("GpuXid", blocks, format!("Xid {code}, {}: {advice}", meaning(code)));
    }
    if errors.remap_failed {
        say("GpuRemapFailed", true, "a row of its memory could not be replaced: replace the GPU".to_owned());
    }
    if errors.reset_pending {
        say("GpuResetPending", false, format!("parts of its memory are replaced at the next reset: {RESET}"));
    }
    if errors.uncorrected.is_some_and(|count| count > 0) {
        let message = "it has had uncorrectable memory errors since the driver was loaded \
                       (`nvidia-smi -q -d ECC` counts them)";
        say("GpuEccErrors", false, message.to_owned());
    }
    if split {
        let message =
            "it is split into MIG instances, which are not placed on; `nvidia-smi -mig 0` makes it whole";
        say("GpuMig", true, message.to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use convoke_model::{Device, DeviceId, DeviceKind, GpuInfo};

    use super::super::Sample;
    use super::*;

    fn gpu() -> Gpu {
        let id = DeviceId::new("GPU-1").unwrap();
        let info = Some(Box::new(GpuInfo::default()));
        let model = "H100".to_owned();
        Gpu::new(Device { id, index: 3, kind: DeviceKind::Gpu, model, memory: 0, gpu: info })
    }

    fn with(errors: Errors) -> Gpu {
        Gpu { sample: Some(Sample { errors, ..Sample::default() }), ..gpu() }
    }

    fn names(gpu: &Gpu) -> Vec<(String, bool)> {
        problems(gpu).into_iter().map(|problem| (problem.name, problem.blocks)).collect()
    }

    #[test]
    fn what_makes_a_gpu_unusable_blocks_it_and_what_makes_it_doubtful_does_not() {
        assert!(names(&gpu()).is_empty());
        let blocked = [
            ("GpuLost", Gpu { trouble: Some(Trouble::Lost), ..gpu() }),
            ("GpuResetRequired", Gpu { trouble: Some(Trouble::ResetRequired), ..gpu() }),
            ("GpuFailing", Gpu { trouble: Some(Trouble::Failing("x".to_owned())), ..gpu() }),
            ("GpuXid", Gpu { grave_xid: Some(79), ..gpu() }),
            ("GpuRemapFailed", with(Errors { remap_failed: true, ..Errors::default() })),
        ];
        for (name, gpu) in blocked {
            assert_eq!(names(&gpu), [(name.to_owned(), true)]);
        }
        let doubtful = [
            ("GpuXid", Gpu { grave_xid: Some(74), ..gpu() }),
            ("GpuResetPending", with(Errors { reset_pending: true, ..Errors::default() })),
            ("GpuEccErrors", with(Errors { uncorrected: Some(1), ..Errors::default() })),
        ];
        for (name, gpu) in doubtful {
            assert_eq!(names(&gpu), [(name.to_owned(), false)]);
        }
        assert!(
            problems(&with(Errors { uncorrected: Some(0), corrected: Some(9), ..Errors::default() }))
                .is_empty()
        );
    }

    #[test]
    fn a_gpu_that_is_split_is_not_placed_on() {
        let mut gpu = gpu();
        gpu.device.gpu = Some(Box::new(GpuInfo { mig: Some(true), ..GpuInfo::default() }));
        assert_eq!(names(&gpu), [("GpuMig".to_owned(), true)]);
        assert!(problems(&gpu)[0].message.starts_with("GPU 3: "));
    }
}
