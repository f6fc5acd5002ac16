//! The kernels: compiled for every kind of GPU, which needs NVRTC and no GPU; and each beside its CPU
//! twin on random input, which needs a GPU and `CONVOKE_TEST_GPU=1`. What is missing is named, and its
//! tests are reported as ignored.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod kernels;
mod libraries;
mod training;
mod twin;

use convoke_trainer::device::cuda::{Precision, library};
use libtest_mimic::{Arguments, Trial};

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Tf32, Precision::Bf16];

fn main() {
    let nvrtc = library::open(library::NVRTC).err().map(|e| format!("not run: {e}"));
    let nccl = library::open(library::NCCL).err().map(|e| format!("not run: {e}"));
    let gpu = std::env::var_os("CONVOKE_TEST_GPU");
    let gpu = gpu.is_none().then(|| "not run: on a GPU, with CONVOKE_TEST_GPU=1".to_owned());
    let mut trials = vec![
        trial(&nvrtc, "every_kernel_compiles_for_sm_80_and_sm_90".to_owned(), libraries::compile),
        trial(&nccl, "a_unique_id_of_the_real_nccl_is_exchanged".to_owned(), libraries::exchange),
    ];
    for precision in PRECISIONS {
        for (name, test) in kernels::TESTS {
            trials.push(trial(&gpu, format!("{name}_{precision:?}"), move || test(precision)));
        }
        for (name, test) in training::TESTS {
            trials.push(trial(&gpu, format!("{name}_{precision:?}"), move || test(precision)));
        }
    }
    let mut arguments = Arguments::from_args();
    // One GPU, one at a time: a failure then tells of itself alone.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(missing: &Option<String>, name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    let name = missing.as_ref().map_or_else(|| name.clone(), |missing| format!("{name} ({missing})"));
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    trial.with_ignored_flag(missing.is_some())
}
