//! A job that fails in a container tells why: the cause, the lines that show it, what to try, and the line of the
//! user's Compose file. On this host's Docker Engine; without one, or without an image that a story needs, it is
//! reported as ignored under a name that says what is missing.

mod causes;
mod gang;
mod torchrun;

use std::process::ExitCode;

use convoke_tests::{stories, story};

fn main() -> ExitCode {
    story::run(stories! {
        causes on Base:
            a_kernel_s_out_of_memory_kill_names_its_limit_and_the_line_that_sets_it,
            a_full_dev_shm_names_its_size_and_what_was_in_use,
            a_command_that_is_not_in_the_image_is_named,
            a_file_that_is_not_executable_is_named,
            an_image_that_nobody_has_names_the_line_of_image,
            a_port_that_is_taken_is_named_and_not_charged,
            a_process_of_the_host_is_explained_too;
        gang on Base:
            of_a_gang_the_rank_that_raised_tells_why_and_of_the_others_a_line;
        gang on Torch:
            a_real_traceback_under_torchrun_is_told_by_its_exception;
        torchrun on Torch:
            a_rank_that_raised_is_told_with_its_traceback,
            a_rank_that_exited_without_a_word_is_told_by_its_launcher_s,
            a_rank_that_ran_out_of_memory_is_told_with_the_limit,
            a_rank_that_crashed_is_told_by_its_signal;
    })
}
