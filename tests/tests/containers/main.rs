//! Jobs of containers, on this host's Docker Engine: a coordinator, agents and the command line as
//! processes, a module per kind of story. Without an engine, or an image that a story needs, it is
//! reported as ignored under a name that says what is missing.

mod beside;
mod disks;
mod engines;
mod namespaces;
mod needs;
mod networks;
mod refusals;
mod restarts;
mod scene;
mod stops;
mod training;
mod travels;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use needs::Needs;

/// Its name, what it needs, and what it does.
type Story = (&'static str, Needs, fn());

/// Names each story after its function.
macro_rules! stories {
    ($($module:ident on $needs:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        [$($((stringify!($name), Needs::$needs, (|| scene::block_on($module::$name())) as fn())),+),+]
    };
}

fn stories() -> Vec<Story> {
    stories! {
        training on Torch:
            an_unmodified_directory_trains_on_two_nodes_and_its_files_come_back;
        training on Trainer:
            the_reference_trainer_trains_as_a_gang_of_containers;
        restarts on Base:
            a_killed_agent_s_containers_go_on_and_no_line_or_file_is_lost,
            a_killed_coordinator_s_containers_go_on_and_no_line_or_file_is_lost,
            a_killed_container_starts_its_gang_again_with_what_came_back_until_the_budget_is_spent;
        travels on Base:
            what_rank_zero_writes_is_there_when_up_returns_and_the_rest_is_untouched,
            a_later_generation_finds_what_an_earlier_one_left,
            what_is_written_while_the_agent_is_dead_comes_back,
            what_a_job_leaves_while_the_coordinator_is_away_is_pulled_when_it_is_back,
            a_user_that_is_not_root_can_write_to_its_own_directory,
            a_directory_is_mounted_in_a_read_only_one_that_was_shipped_without_it,
            secrets_and_configs_are_where_compose_puts_them;
        stops on Base:
            a_stop_with_a_grace_kills_what_ignores_sigterm_when_it_is_over,
            a_failing_gang_ends_though_a_rank_ignores_sigterm;
        refusals on Base:
            an_image_that_nobody_has_is_named,
            a_command_that_is_not_in_the_image_is_named_with_127,
            a_file_that_is_no_program_is_named_with_126,
            a_volume_of_a_path_that_cannot_be_is_named,
            a_published_port_that_is_taken_is_named,
            torchrun_standalone_in_a_gang_of_two_is_refused_with_the_fix,
            a_link_out_of_what_travels_is_refused_by_name,
            ten_gigabytes_are_refused_by_a_smaller_limit_with_advice;
        beside on Base:
            a_server_s_port_is_reached_through_the_coordinator,
            exec_and_cp_reach_into_a_running_container,
            a_service_waits_until_the_one_it_depends_on_is_healthy,
            a_service_with_a_build_section_runs_what_was_built,
            the_tasks_of_a_replica_share_memory;
        disks on Mounts:
            a_coordinator_whose_disk_is_full_takes_nothing_and_works_once_it_has_space,
            files_that_a_full_coordinator_does_not_take_stay_on_their_node_until_it_does;
        engines on Engines:
            a_gang_on_two_hosts_with_engines_of_their_own_gets_its_image_and_meets;
        engines on TorchEngines: pytorch_spans_two_hosts_under_torchrun_and_without_a_launcher;
        engines on JaxEngines: jax_spans_two_hosts;
        engines on TensorflowEngines: tensorflow_spans_two_hosts;
        networks on Namespaces:
            a_gang_whose_nodes_do_not_reach_each_other_waits_by_name_and_runs_once_they_do;
    }
    .to_vec()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each story runs several processes and containers, and some train: one at a time per two cores.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores.div_ceil(2));
    let mut known = HashMap::new();
    let trials = stories().into_iter().map(|(name, needs, story)| {
        // What is only listed needs nothing.
        let missing =
            if arguments.list { &None } else { known.entry(needs).or_insert_with(|| needs.missing()) };
        match missing {
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
