//! Containers on a real Docker Engine. Without one, or without a small image to run, each test is
//! reported as ignored under a name that says what is missing.
#![allow(clippy::unwrap_used, reason = "clippy only knows test functions as tests")]

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod engine;
mod host;
mod lives;
mod output;
mod starts;
mod stops;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name and what it does.
type Case = (&'static str, fn());

/// Names each test after its function.
macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        [$($((stringify!($name), $module::$name as fn())),+),+]
    };
}

fn cases() -> Vec<Case> {
    cases! {
        starts:
            a_container_that_returns_zero_or_three_is_reported_so,
            a_failed_start_leaves_no_container_and_no_directory,
            a_command_that_is_not_in_the_image_is_127_by_name,
            what_cannot_be_run_is_126,
            an_image_that_is_gone_is_named,
            a_taken_port_is_named_and_counts_as_no_fault_of_the_jobs,
            tasks_of_one_replica_share_memory_and_network,
            a_task_whose_first_has_ended_runs_alone,
            a_name_that_an_ended_generation_has_is_taken_over,
            a_name_that_another_jobs_container_has_is_refused_by_that_jobs_name,
            a_task_that_runs_already_is_taken_over_by_who_starts_it_and_not_made_twice,
            the_health_check_is_reported;
        stops:
            stop_is_the_stop_signal_first,
            an_entrypoint_that_ignores_sigterm_is_killed_and_a_shorter_grace_brings_that_forward,
            a_first_process_without_handlers_ends_at_once,
            a_kill_for_memory_is_named_with_its_limit,
            a_container_that_somebody_restarts_is_an_end_that_says_so,
            a_container_that_somebody_removes_is_an_end_that_says_so;
        output:
            sources_stay_apart_and_the_last_line_needs_no_newline,
            long_lines_are_joined_and_cut_at_64_kib,
            a_flood_loses_nothing,
            a_flood_through_small_rotated_files_is_whole_or_marked,
            a_last_reading_that_breaks_off_goes_on_when_the_engine_is_back,
            a_last_reading_that_always_breaks_off_costs_lines_and_not_the_end,
            lines_that_were_rotated_away_while_nobody_read_are_marked;
        lives:
            a_job_runs_in_containers_and_leaves_nothing,
            any_user_of_a_container_finds_its_places_writable,
            checkpoints_below_a_mount_are_read_where_the_host_has_them,
            a_replica_with_its_own_network_meets_at_loopback,
            a_killed_agent_finds_its_containers_again_and_their_lines_go_on,
            a_container_that_ended_while_no_agent_was_there_is_reported,
            an_agent_that_nobody_wants_any_more_takes_its_containers_along,
            strangers_and_other_agents_containers_are_left_alone;
        damage:
            a_running_container_is_known_by_its_labels_and_its_engine,
            a_container_with_a_damaged_record_is_left_alone_until_its_engine_is_back,
            how_a_container_ended_is_told_by_its_engine,
            an_agent_without_records_takes_its_containers_over_and_starts_none_twice,
            containers_without_a_record_are_ended_only_when_the_coordinator_does_not_want_them;
    }
    .to_vec()
}

/// These stop an engine, so they start one of their own.
fn private_cases() -> Vec<Case> {
    cases! {
        engine:
            an_engine_that_stops_takes_its_containers_and_is_told_so,
            an_engine_with_live_restore_comes_back_to_running_containers,
            an_engine_that_is_killed_takes_its_containers_when_it_is_back,
            what_ended_with_its_engine_while_no_agent_was_there_is_no_success,
            an_agent_that_starts_before_its_engine_finds_its_tasks_when_it_is_back;
    }
    .to_vec()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = if arguments.list { None } else { host::missing() };
    let private = missing.clone().or_else(|| if arguments.list { None } else { engine::missing() });
    let trial = |(name, test): Case, missing: &Option<String>| match missing {
        None => Trial::test(name, move || run(test)),
        Some(missing) => {
            Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
        }
    };
    let shared = cases().into_iter().map(|case| trial(case, &missing));
    let trials = shared.chain(private_cases().into_iter().map(|case| trial(case, &private)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(test: fn()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(test)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").into()
    })
}
