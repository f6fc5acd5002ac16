//! Jobs of containers, on this host's Docker Engine: a coordinator, agents and the command line as
//! processes, a module per kind of story. Without an engine, or an image that a story needs, it is
//! reported as ignored under a name that says what is missing.

mod beside;
mod disks;
mod engines;
mod hosts;
mod namespaces;
mod networks;
mod refusals;
mod restarts;
mod services;
mod shares;
mod slow_links;
mod stops;
mod training;
mod travels;

use std::process::ExitCode;

use convoke_tests::{stories, story};

fn main() -> ExitCode {
    story::run(stories! {
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
            what_is_written_comes_back_though_the_agent_has_lost_its_record_of_the_job,
            what_a_job_leaves_while_the_coordinator_is_away_is_pulled_when_it_is_back,
            a_user_that_is_not_root_can_write_to_its_own_directory,
            a_directory_is_mounted_in_a_read_only_one_that_was_shipped_without_it,
            secrets_and_configs_are_where_compose_puts_them;
        shares on Base:
            a_directory_that_both_nodes_see_is_mounted_and_nothing_of_it_travels,
            a_marker_that_is_gone_at_the_start_is_told_by_node_and_path_until_it_is_back;
        shares on BaseMounts: a_directory_that_a_node_does_not_see_is_shipped_or_refused_by_its_name;
        shares on Fuse: a_directory_on_fuse_is_mounted_without_being_asked_for;
        slow_links on SlowLinks:
            what_a_slow_uplink_takes_long_for_arrives_and_the_coordinator_never_went_away;
        stops on Base:
            a_stop_with_a_grace_kills_what_ignores_sigterm_when_it_is_over,
            a_failing_gang_ends_though_a_rank_ignores_sigterm,
            a_paused_container_is_told_until_it_goes_on_and_can_be_stopped;
        stops on Torch:
            python_as_pid_1_ends_on_sigterm_and_without_init_when_its_grace_is_over;
        refusals on Base:
            an_image_whose_registry_cannot_be_reached_is_named,
            a_volume_of_an_absolute_path_that_the_node_lacks_is_refused_by_name,
            two_services_that_ask_for_one_gpu_are_refused_with_both_names,
            torchrun_standalone_in_a_gang_of_two_is_refused_with_the_fix,
            a_link_out_of_what_travels_is_refused_by_name,
            ten_gigabytes_are_refused_by_a_smaller_limit_with_advice;
        refusals on Registry:
            an_image_that_its_registry_does_not_have_is_named,
            a_login_that_the_registry_refuses_is_named;
        beside on Base:
            a_server_s_port_is_reached_through_the_coordinator,
            exec_and_cp_reach_into_a_running_container,
            a_service_waits_until_the_one_it_depends_on_is_healthy,
            a_service_with_a_build_section_runs_what_was_built,
            the_tasks_of_a_replica_share_memory;
        services on Base:
            a_container_in_a_network_of_its_own_reaches_a_service_by_its_name,
            a_consumer_starts_from_what_its_producer_left_and_what_it_changes_takes_its_place;
        services on Engines:
            a_service_on_another_node_is_reached_by_its_names_and_the_user_s_own_hosts_win;
        disks on Mounts:
            a_coordinator_whose_disk_is_full_takes_nothing_and_works_once_it_has_space,
            files_that_a_full_coordinator_does_not_take_stay_on_their_node_until_it_does;
        disks on RegistryEngines:
            an_engine_whose_disk_fills_up_in_a_pull_is_told_of_and_the_job_runs_once_there_is_space;
        engines on Engines:
            an_engine_that_stops_in_the_middle_of_a_job_is_told_of_and_the_job_goes_on_once_it_is_back,
            a_gang_on_two_hosts_with_engines_of_their_own_gets_its_image_and_meets;
        engines on TorchEngines: pytorch_spans_two_hosts_under_torchrun_and_without_a_launcher;
        engines on JaxEngines: jax_spans_two_hosts;
        engines on TensorflowEngines: tensorflow_spans_two_hosts;
        networks on Base:
            network_mode_host_bridge_and_none_are_what_docker_makes_of_them,
            a_network_mode_that_would_part_a_gang_is_refused_by_its_line;
        networks on Namespaces:
            a_gang_whose_nodes_do_not_reach_each_other_waits_by_name_and_runs_once_they_do;
    })
}
