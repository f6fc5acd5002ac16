//! Stories that need something of this host: without it, a story is reported as ignored, under a name that
//! says what is missing.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::Needs;

/// Its name, what it needs, and what it does.
pub type Story = (&'static str, Needs, fn());

/// A list of [`Story`]: `module on Need: function, …; …`, each named after its function.
#[macro_export]
macro_rules! stories {
    ($($module:ident on $needs:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        vec![$($((
            stringify!($name), $crate::Needs::$needs, (|| $crate::block_on($module::$name())) as fn()
        )),+),+]
    };
}

/// Runs a story to its end.
pub fn block_on(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(Box::pin(story));
}

/// The `main` of a test that tells stories.
pub fn run(stories: Vec<Story>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each story runs several processes and containers, and some train: one at a time per two cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores.div_ceil(2));
    let mut known = HashMap::new();
    let trials = stories.into_iter().map(|(name, needs, story)| {
        // What is only listed needs nothing.
        let missing =
            if arguments.list { &None } else { known.entry(needs).or_insert_with(|| needs.missing()) };
        match missing {
            None => Trial::test(name, move || tell(story)),
            Some(missing) => {
                Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
            }
        }
    });
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn tell(story: fn()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(story)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").into()
    })
}
