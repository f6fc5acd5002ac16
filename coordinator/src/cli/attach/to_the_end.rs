//! An attached `up`: what people see and what an interrupt does until the jobs and their files are done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use convoke_proto::v1;

use super::{Attachment, Screen, View};
use crate::cli::failure::Failure;
use crate::cli::link::Link;
use crate::cli::receive::{Places, Receiver};
use crate::cli::ship::Sent;
use crate::cli::signals::{Interrupt, Interrupts};
use crate::cli::{stop, text, wait};

/// How often it is said what only files are waited for: people wonder, and it is one call.
const FILES_LATE: Duration = Duration::from_secs(5);

/// Follows `jobs` to their end and their last file; the first interrupt stops them, the second leaves. Once they
/// have ended, nothing new of their files is waited for longer than `wait_for_files`.
pub(crate) async fn to_the_end(
    link: &Arc<Link>,
    screen: Screen,
    jobs: Vec<v1::Job>,
    places: Vec<(Places, Sent)>,
    mut interrupts: Interrupts,
    wait_for_files: Duration,
) -> Result<(), Failure> {
    let ids: Vec<String> = jobs.iter().map(|job| job.id.clone()).collect();
    let receiver = |(n, (job, kept)): (usize, (&v1::Job, (Places, Sent)))| {
        (!kept.0.is_empty()).then(|| Receiver::new(link, &screen, job, kept, &ids[..n]))
    };
    let receivers = jobs.iter().zip(places).enumerate().map(receiver).collect();
    let mut updates = Attachment::new(link, &jobs, receivers);
    let mut view = View::new(screen.clone(), &jobs);
    let mut stopping: Option<tokio::task::JoinSet<()>> = None;
    let mut told_of_files = false;
    let mut moved = Instant::now();
    loop {
        let only_files = updates.only_files_are_to_come();
        tokio::select! {
            update = updates.next() => match update? {
                Some(update) => {
                    moved = Instant::now();
                    view.update(update)?;
                }
                None => break,
            },
            () = tokio::time::sleep(FILES_LATE.min(wait_for_files)), if only_files => {
                if !std::mem::replace(&mut told_of_files, true) {
                    screen.note("waiting for the last files (Ctrl-C leaves; `convoke pull` brings them later)");
                }
                if look_again(link, &screen, &mut view, &mut interrupts).await? {
                    moved = Instant::now();
                }
                if moved.elapsed() >= wait_for_files {
                    break;
                }
            }
            interrupt = interrupts.next() => match (interrupt, &stopping) {
                (Interrupt::Stop, None) if !updates.only_files_are_to_come() => {
                    stopping = Some(stop_all(link, &screen, &view.jobs()));
                }
                (Interrupt::Hangup, None) => return Err(Failure::interrupted()),
                (_, _) => return Err(leave(&screen, &mut view, updates.only_files_are_to_come())),
            },
        }
    }
    if stopping.is_none() {
        // What their nodes say of what is still there; the last updates were of before.
        look_again(link, &screen, &mut view, &mut interrupts).await?;
    }
    view.finish();
    match stopping {
        Some(_) => Err(Failure::interrupted()),
        None => wait::outcome(&view.jobs()).and_then(|()| view.files_outcome()),
    }
}

/// True if files of jobs that have ended have moved. An interrupt leaves, however long the coordinator is away.
async fn look_again(
    link: &Link,
    screen: &Screen,
    view: &mut View,
    interrupts: &mut Interrupts,
) -> Result<bool, Failure> {
    tokio::select! {
        moved = view.look_again(link) => moved,
        _ = interrupts.next() => Err(leave(screen, view, true)),
    }
}

/// Says what is left undone.
fn leave(screen: &Screen, view: &mut View, only_files: bool) -> Failure {
    view.finish();
    screen.note(if only_files {
        "left; `convoke pull JOB` brings the files that were still to come"
    } else {
        "left; the jobs go on stopping, see `convoke ps -a`"
    });
    Failure::interrupted()
}

/// Asks for the end of all, beside the updates that tell of it.
fn stop_all(link: &Arc<Link>, screen: &Screen, jobs: &[v1::Job]) -> tokio::task::JoinSet<()> {
    let running: Vec<_> = jobs.iter().filter(|job| !text::is_final(job)).cloned().collect();
    let names: Vec<_> = running.iter().map(text::job_name).collect();
    screen.note(&format!("stopping {} (Ctrl-C again leaves at once)", names.join(", ")));
    let mut tasks = tokio::task::JoinSet::new();
    for job in running {
        let (link, screen) = (link.clone(), screen.clone());
        tasks.spawn(async move {
            if let Err(failure) = stop::ask(&link, &job.id, None).await {
                screen.note(&format!("{} could not be stopped: {}", text::job_name(&job), failure.message));
            }
        });
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::exit;
    use crate::cli::output::Format;

    #[tokio::test]
    async fn an_interrupt_leaves_though_the_coordinator_says_nothing_of_the_files() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let link = Link::connect(&url, Duration::from_secs(600), Box::new(|_| {})).await.unwrap();
        let screen = Screen::new(Format::Table);
        let job = v1::Job { state: v1::JobState::Succeeded.into(), ..Default::default() };
        let mut view = View::new(screen.clone(), &[job]);
        let mut interrupts = Interrupts::listen().unwrap();
        interrupts.again(Interrupt::Stop);
        let left = look_again(&link, &screen, &mut view, &mut interrupts).await.unwrap_err();
        assert_eq!(left.exit, exit::INTERRUPTED);
    }
}
