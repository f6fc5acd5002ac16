//! Random lives of a cluster: jobs, agents that fail and lie still, lost and late messages,
//! restarts of the coordinator; every invariant is checked after every event.
//!
//! `CONVOKE_SEEDS` seeds are run (1,000 by default); a seed that fails prints the command that
//! replays it alone, with its trace.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the seed that it belongs to")]

mod simulated;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use simulated::World;

/// Random events of one life, before the calm in which everything has to come to an end.
const EVENTS: u32 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One life; the error is what was violated. With a trace, how it came to it is before that.
fn live(seed: u64, traced: bool) -> Result<(), String> {
    let mut world = World::new(seed, traced);
    let run = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..EVENTS {
            world.live()?;
        }
        world.calm_down()
    }));
    let what = match run {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(violation)) => violation,
        Err(_) => "it panicked, see above".to_owned(),
    };
    let trace = world.trace.map_or_else(String::new, |trace| trace.join("\n"));
    let replay = format!("CONVOKE_SEED={seed} cargo test -p convoke-core --test simulation");
    Err(format!("{trace}\n\nseed {seed}: {what}\nreplay: {replay}\n"))
}

#[test]
fn every_invariant_holds_in_every_life_and_every_job_comes_to_an_end() {
    let seeds: Vec<u64> = match number("CONVOKE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("CONVOKE_SEEDS").unwrap_or(1_000)).collect(),
    };
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut failures: Vec<u64> = std::thread::scope(|scope| {
        let work = || {
            let take = || seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap());
            std::iter::from_fn(take).find_map(|seed| live(*seed, false).err().map(|_| *seed))
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    failures.sort_unstable();
    // A life is the same each time: the trace is only kept where somebody reads it.
    let Some(first) = failures.first() else { return };
    live(*first, true).unwrap_or_else(|story| panic!("{story}"));
    panic!("seed {first} failed once and then did not: the core is not deterministic");
}
