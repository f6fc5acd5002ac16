//! The engine module on a real Docker Engine, with a real registry, and with an engine of its own where
//! a disk must fill up. What is missing is named, and its tests are reported as ignored.

#![allow(clippy::unwrap_used, reason = "what cannot be made here is a failed test")]
#![allow(unreachable_pub, reason = "the modules of one test")]

mod containers;
mod kept;
mod named;
mod private;
mod registry;
mod scene;
mod shipped;
#[path = "../support/task.rs"]
mod task;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use scene::Scene;

/// No story takes longer, on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(240);

type Story = for<'a> fn(&'a mut Scene) -> BoxFuture<'a, ()>;

/// What a story needs beside the engine.
#[derive(Clone, Copy)]
enum Needs {
    Engine,
    Registry,
    /// A registry, and an engine on a small disk.
    SmallDisk,
    Gpu,
}

macro_rules! stories {
    ($($needs:ident: $($module:ident::$story:ident),+ $(,)?;)+) => {
        &[$($((stringify!($story), Needs::$needs, (|scene| $module::$story(scene).boxed()) as Story)),+),+]
    };
}

const STORIES: &[(&str, Needs, Story)] = stories! {
    Engine:
        containers::the_engine_describes_itself,
        containers::a_container_finds_what_its_request_asked_for,
        containers::an_ulimit_that_the_host_refuses_costs_one_try_and_not_the_task,
        shipped::a_shipped_image_is_loaded_once_and_layers_that_are_there_are_not_fetched,
        shipped::what_docker_save_writes_is_loaded_again_under_the_same_id,
        shipped::layers_that_are_not_what_the_configuration_says_are_refused,
        shipped::a_fetch_that_nobody_waits_for_any_more_ends,
        kept::only_what_was_fetched_here_and_is_unused_is_removed;
    Registry:
        named::an_image_is_pulled_once_for_all_who_want_it_and_then_costs_no_traffic,
        named::a_pinned_digest_is_pulled_whatever_the_tag_means_now,
        named::an_image_that_is_missing_is_told_from_a_registry_that_is_away,
        named::wrong_credentials_are_told_with_the_user_and_right_ones_work,
        named::a_blob_that_was_damaged_in_the_registry_is_told,
        kept::a_pulled_image_is_removed_whole_once_no_container_is_made_of_it;
    SmallDisk:
        private::a_disk_that_is_too_small_is_told_before_it_is_full_and_when_it_is;
    Gpu:
        containers::a_container_sees_the_gpu_that_it_was_given_and_no_other;
};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let trials = STORIES.iter().map(|(name, needs, story)| {
        // What is only listed needs nothing.
        let missing = if args.list { None } else { runtime.block_on(missing(*needs)) };
        match missing {
            None => Trial::test(*name, move || run(*story)),
            Some(missing) => {
                Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
            }
        }
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

async fn missing(needs: Needs) -> Option<String> {
    let engine = match Engine::connect(Path::new(DEFAULT_SOCKET)).await {
        Ok(engine) => engine,
        Err(error) => return Some(error.to_string()),
    };
    match needs {
        Needs::Engine => None,
        Needs::Registry => registry::missing(),
        Needs::SmallDisk => registry::missing().or_else(private::missing),
        Needs::Gpu => containers::missing_gpu(&engine).await,
    }
}

fn run(story: Story) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut scene = Scene::new().await;
        let told = std::panic::AssertUnwindSafe(story(&mut scene)).catch_unwind();
        let told = tokio::time::timeout(DEADLINE, told).await;
        scene.clear().await;
        match told {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => Err(format!("it takes longer than {DEADLINE:?}").into()),
        }
    })
}
