//! Which nodes see a submitter's directories, with agents that the test plays.

use convoke_model::{Constraint, ConstraintSubject, JobSpec, MARKER_FILE};
use convoke_proto::v1;
use convoke_proto::v1::MarkerSight::{Other, Seen, Unspecified};
use convoke_proto::v1::control_request::Message as FromAgent;
use convoke_proto::v1::control_response::Message as ToAgent;
use tonic::Status;

use crate::agent::Agent;
use crate::coordinator::{Coordinator, reason, soon, spec};

fn marker(directory: &str) -> v1::Marker {
    v1::Marker { directory: directory.to_owned(), file: MARKER_FILE.to_owned(), id: "a1".to_owned() }
}

async fn find(
    coordinator: &Coordinator,
    spec: JobSpec,
    markers: Vec<v1::Marker>,
) -> Result<Vec<v1::NodeSights>, Status> {
    let request = v1::FindSharedDirectoriesRequest { spec: Some(spec.into()), markers };
    let mut files = coordinator.files();
    let asked = Box::pin(files.find_shared_directories(request));
    Ok(soon("the answers", asked).await?.into_inner().nodes)
}

/// Answers the next question with these; the paths that it was asked about.
async fn say(agent: &mut Agent, sights: &[v1::MarkerSight]) -> Vec<String> {
    loop {
        if let ToAgent::LookForMarkers(asked) = agent.next().await.unwrap() {
            let sights = sights.iter().map(|sight| (*sight).into()).collect();
            let seen = v1::MarkersSeen { question: asked.question, sights };
            agent.send(FromAgent::MarkersSeen(seen)).await;
            return asked.markers.into_iter().map(|marker| marker.directory).collect();
        }
    }
}

fn sights(node: &str, sights: &[v1::MarkerSight]) -> v1::NodeSights {
    v1::NodeSights { node: node.to_owned(), sights: sights.iter().map(|s| (*s).into()).collect() }
}

#[tokio::test]
async fn each_node_that_could_hold_the_job_says_what_it_sees() {
    let coordinator = Coordinator::start().await;
    let mut first = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut second = Agent::connect(coordinator.channel.clone(), "n2").await;
    let mut not_asked = Agent::connect(coordinator.channel.clone(), "n3").await;
    let mut job = spec("a");
    job.constraints =
        vec![Constraint { subject: ConstraintSubject::Id, equal: false, value: "n3".to_owned() }];
    let finding = find(&coordinator, job, vec![marker("/mnt/a"), marker("/mnt/b")]);
    let (found, asked, _) =
        tokio::join!(finding, say(&mut first, &[Seen, Other]), say(&mut second, &[Seen, Unspecified]));
    assert_eq!(asked, ["/mnt/a", "/mnt/b"]);
    assert_eq!(found.unwrap(), [sights("n1", &[Seen, Other]), sights("n2", &[Seen, Unspecified])]);

    // The next question that the third sees is its own.
    let (found, asked) =
        tokio::join!(find(&coordinator, only("n3"), vec![marker("/mnt/c")]), say(&mut not_asked, &[Other]));
    assert_eq!((found.unwrap(), asked), (vec![sights("n3", &[Other])], vec!["/mnt/c".to_owned()]));
    coordinator.stop().await;
}

fn only(node: &str) -> JobSpec {
    let constraint = Constraint { subject: ConstraintSubject::Id, equal: true, value: node.to_owned() };
    JobSpec { constraints: vec![constraint], ..spec("a") }
}

/// An older agent takes no notice of the question, and one that is confused answers another.
#[tokio::test]
async fn a_node_that_does_not_answer_to_the_point_has_no_answer() {
    let coordinator = Coordinator::start().await;
    let _silent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut confused = Agent::connect(coordinator.channel.clone(), "n2").await;
    let finding = find(&coordinator, spec("a"), vec![marker("/mnt/a")]);
    let (found, _) = tokio::join!(finding, say(&mut confused, &[Seen, Seen]));
    assert_eq!(found.unwrap(), [sights("n1", &[]), sights("n2", &[])]);
    coordinator.stop().await;
}

#[tokio::test]
async fn what_names_no_marker_is_refused_and_no_node_is_no_answer() {
    let coordinator = Coordinator::start().await;
    let bad = [
        marker("data"),
        marker("/mnt/../etc"),
        v1::Marker { file: "passwd".to_owned(), ..marker("/etc") },
        v1::Marker { id: String::new(), ..marker("/mnt") },
    ];
    for marker in bad {
        assert_eq!(reason(find(&coordinator, spec("a"), vec![marker]).await), "INVALID_MESSAGE");
    }
    let many = vec![marker("/mnt"); 65];
    assert_eq!(reason(find(&coordinator, spec("a"), many).await), "INVALID_MESSAGE");
    let wrong = JobSpec { procs_per_task: Some(1_000_000), ..spec("a") };
    assert_eq!(reason(find(&coordinator, wrong, vec![marker("/mnt")]).await), "INVALID_SPEC");
    assert_eq!(find(&coordinator, spec("a"), vec![marker("/mnt")]).await.unwrap(), []);
    coordinator.stop().await;
}
