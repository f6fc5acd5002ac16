//! The kernels: compiled for every kind of GPU, which needs NVRTC and no GPU; and each beside its CPU
//! twin on random input, and training as a whole, which needs a GPU and `CONVOKE_TEST_GPU=1`. Tests of
//! several ranks need two GPUs and `CONVOKE_TEST_GPU=2`, those beside PyTorch a Python that has it, as
//! `CONVOKE_TEST_PYTHON`. What is missing is named, and its tests are reported as ignored.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod kernels;
mod libraries;
mod ranks;
mod training;
mod twin;

use convoke_trainer::device::Precision;
use convoke_trainer::device::cuda::library;
use libtest_mimic::{Arguments, Trial};

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Tf32, Precision::Bf16];

/// Name, test.
type Test = (&'static str, fn(Precision));

/// Names a Python with PyTorch.
const PYTHON: &str = "CONVOKE_TEST_PYTHON";

fn main() {
    let nvrtc = library::open(library::NVRTC).err().map(|e| format!("not run: {e}"));
    let nccl = library::open(library::NCCL).err().map(|e| format!("not run: {e}"));
    let gpus =
        std::env::var("CONVOKE_TEST_GPU").map_or(0, |n| n.parse().expect("CONVOKE_TEST_GPU is 1 or 2"));
    let needs = |n: u32| (gpus < n).then(|| format!("not run: needs {n} GPU, with CONVOKE_TEST_GPU={n}"));
    let gpu = needs(1);
    let no_python =
        || std::env::var_os(PYTHON).is_none().then(|| format!("not run: beside PyTorch, with {PYTHON}"));
    let python = gpu.clone().or_else(no_python);
    let mut trials = vec![
        trial(&nvrtc, "every_kernel_compiles_for_sm_80_and_sm_90".to_owned(), libraries::compile),
        trial(&nccl, "a_unique_id_of_the_real_nccl_is_exchanged".to_owned(), libraries::exchange),
    ];
    for precision in PRECISIONS {
        for (name, test) in kernels::TESTS {
            trials.push(trial(&gpu, format!("{name}_{precision:?}"), move || test(precision)));
        }
        for (name, test) in training::TESTS {
            let missing = if name.starts_with("pytorch") { &python } else { &gpu };
            trials.push(trial(missing, format!("{name}_{precision:?}"), move || test(precision)));
        }
    }
    for (name, count, test) in ranks::TESTS {
        trials.push(trial(&needs(count), name.to_owned(), test));
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
