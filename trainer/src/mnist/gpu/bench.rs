//! How fast steps are with everything else off.

use super::{Data, GpuTrainer, Ranks};
use crate::device::cuda::{CudaError, Launch, Stopwatch};
use crate::mnist::Digits;
use crate::mnist::run::{Checkpoints, Device as _, Moment, Stretch, TrainError, say};

/// Before anything is timed.
const WARM_UP: u64 = 50;
/// A kernel alone is timed over so many launches.
const REPEATS: u32 = 200;

/// Prints samples a second over `steps` steps, with the checkpoints that are due in them, and what each
/// kernel takes when it runs alone, again and again.
pub fn bench(
    trainer: &mut GpuTrainer,
    digits: &Digits,
    steps: u64,
    checkpoints: Option<Checkpoints<'_>>,
) -> Result<(), TrainError> {
    let batch = u64::from(trainer.progress.batch_per_rank);
    let sampler = trainer.sampler(digits.len());
    let order = sampler.epoch(0);
    let whole = order.len() as u64 / batch;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut saved = 0;
    let mut run = |trainer: &mut GpuTrainer, steps: u64| {
        let mut left = steps;
        while left > 0 {
            if trainer.progress.batch == whole {
                trainer.progress.batch = 0;
            }
            let until = whole.min(trainer.progress.batch + left);
            left -= until - trainer.progress.batch;
            let stretch = Stretch { digits, order: &order, until, checkpoints, stop: &stop };
            trainer.advance(&stretch, &mut |moment: Moment<'_>| {
                saved += u64::from(matches!(moment, Moment::Saved(_)));
                Ok(())
            })?;
        }
        Ok::<_, TrainError>(())
    };
    run(trainer, WARM_UP)?;
    let began = std::time::Instant::now();
    run(trainer, steps)?;
    let micros = began.elapsed().as_secs_f64() * 1e6 / steps as f64;
    let left_out = trainer.snapshots.left_out;
    trainer.settle(&mut |_| Ok(()))?;
    let world = trainer.ranks.world_size();
    let rate = batch as f64 * f64::from(world) / micros * 1e6;
    if trainer.ranks.rank() == 0 {
        say(&format!(
            "{{\"batch\":{batch},\"world\":{world},\"steps\":{steps},\"us_per_step\":{micros:.1},\"samples_per_s\":{rate:.0},\"saved\":{saved},\"left_out\":{left_out}}}"
        ));
    }
    if matches!(trainer.ranks, Ranks::Alone) {
        let data = trainer.data.as_ref().expect("steps were run");
        for (name, micros) in kernels(trainer, data)? {
            say(&format!("{name:16} {micros:8.2} us"));
        }
    }
    Ok(())
}

fn kernels(trainer: &GpuTrainer, data: &Data) -> Result<Vec<(&'static str, f64)>, CudaError> {
    let (network, post) = (&trainer.network, &trainer.post);
    let stream = &network.gpu.stream;
    let mut launches: Vec<Launch<'_>> = network.forward(data, false).into();
    launches.push(network.dense_backward(data, post));
    launches.push(network.conv_backward(data));
    launches.push(network.conv_gradient());
    // Last, as it moves on to the next batch each time, to beyond the end; a whole gradient has no parts.
    launches.push(network.adam(data, post, 1, false));
    let time = |launch: &Launch<'_>| {
        // SAFETY: the arguments are made for these kernels, and the buffers are the trainer's.
        let graph = network.gpu.capture(|| (0..REPEATS).try_for_each(|_| unsafe { launch.queue(stream) }))?;
        let stopwatch = Stopwatch::start(stream)?;
        graph.launch()?;
        Ok((launch.kernel.name, stopwatch.stop()? / f64::from(REPEATS)))
    };
    launches.iter().map(time).collect()
}
