//! A job that fails in a container tells why: the cause, the lines that show it, what to try, and the line of the
//! user's Compose file. On this host's Docker Engine; without one, or without an image that a story needs, it is
//! reported as ignored under a name that says what is missing.

mod causes;
mod gang;
mod scene;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use convoke_tests::missing;
use libtest_mimic::{Arguments, Failed, Trial};

/// Its name, the image it runs, and what it does.
type Story = (&'static str, &'static str, fn());

/// Names each story after its function.
macro_rules! stories {
    ($($module:ident on $image:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        [$($((stringify!($name), scene::$image, (|| scene::block_on($module::$name())) as fn())),+),+]
    };
}

fn stories() -> Vec<Story> {
    stories! {
        causes on BASE:
            a_kernel_s_out_of_memory_kill_names_its_limit_and_the_line_that_sets_it,
            a_full_dev_shm_names_its_size_and_what_was_in_use,
            a_command_that_is_not_in_the_image_is_named,
            a_file_that_is_not_executable_is_named,
            an_image_that_nobody_has_names_the_line_of_image,
            a_port_that_is_taken_is_named_and_not_charged,
            a_process_of_the_host_is_explained_too;
        gang on BASE:
            of_a_gang_the_rank_that_raised_tells_why_and_those_that_were_stopped_do_not;
        gang on TORCH:
            a_real_traceback_under_torchrun_is_told_by_its_exception;
    }
    .to_vec()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each story runs several processes and containers: one at a time per two cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores.div_ceil(2));
    let trials = stories().into_iter().map(|(name, image, story)| {
        // What is only listed needs nothing.
        match missing(&[image]).filter(|_| !arguments.list) {
            None => Trial::test(name, move || run(story)),
            Some(missing) => {
                Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
            }
        }
    });
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(story: fn()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(story)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").into()
    })
}
