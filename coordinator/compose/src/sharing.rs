//! Services of one project that split a host's GPUs by name.
//!
//! A GPU belongs to one service at a time. Two that name the same one are refused, unless they can
//! never be on one node or the one starts only when the other is done.

use std::collections::{BTreeMap, BTreeSet};

use convoke_model::{Constraint, DependsCondition, DeviceCount, JobSpec};

use crate::report::{Place, Report};

/// The GPUs of a node that a service names.
pub(crate) struct Claim {
    pub(crate) service: String,
    /// By index or UUID, as written.
    pub(crate) ids: Vec<String>,
    pub(crate) place: Place,
    pub(crate) path: String,
}

/// Checks the claims against each other, and makes them exact where several services have one.
pub(crate) fn settle(jobs: &mut [JobSpec], mut claims: Vec<Claim>, report: &mut Report) {
    claims.sort_by(|a, b| a.place.cmp(&b.place));
    let by_name: BTreeMap<&str, &JobSpec> = jobs.iter().map(|j| (j.service.as_str(), j)).collect();
    let mut exact = BTreeSet::new();
    for (i, second) in claims.iter().enumerate() {
        for first in &claims[..i] {
            let (a, b) = (by_name[first.service.as_str()], by_name[second.service.as_str()]);
            if are_disjoint(&a.constraints, &b.constraints) {
                continue;
            }
            exact.extend([first.service.clone(), second.service.clone()]);
            let shared: Vec<&str> =
                second.ids.iter().filter(|id| first.ids.contains(id)).map(String::as_str).collect();
            let is_after = |first: &JobSpec, second| awaited(jobs, second).contains(&*first.service);
            if !shared.is_empty() && !is_after(a, b) && !is_after(b, a) {
                refuse(first, second, &shared, report);
            }
        }
    }
    // The first n GPUs are as good as any n, but not where a neighbour names the others.
    for claim in claims.into_iter().filter(|c| exact.contains(&c.service)) {
        for job in jobs.iter_mut().filter(|j| j.service == claim.service) {
            job.devices.count = DeviceCount::Ids(claim.ids.clone());
        }
    }
}

fn refuse(first: &Claim, second: &Claim, shared: &[&str], report: &mut Report) {
    let gpus = if shared.len() == 1 { "GPU" } else { "GPUs" };
    let message = format!(
        "\"{}\" asks for {gpus} {} and so does \"{}\" ({}): a GPU belongs to one service at a time; name \
         others, or start one when the other is done (depends_on with condition: \
         service_completed_successfully)",
        second.service,
        shared.join(", "),
        first.service,
        first.place
    );
    report.problem(Some(&second.place), second.path.clone(), message);
}

/// Whether no node can meet both lists.
fn are_disjoint(a: &[Constraint], b: &[Constraint]) -> bool {
    a.iter().any(|x| {
        b.iter().any(|y| {
            let same = x.value == y.value;
            x.subject == y.subject && (x.equal && y.equal && !same || x.equal != y.equal && same)
        })
    })
}

/// The services whose success a job awaits, or what it waits for does.
pub fn awaited<'a>(jobs: &'a [JobSpec], job: &'a JobSpec) -> BTreeSet<&'a str> {
    let (mut ended, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![job]);
    while let Some(next) = open.pop() {
        for (service, condition) in &next.container.depends_on {
            if *condition == DependsCondition::CompletedSuccessfully {
                ended.insert(service.as_str());
            }
            if seen.insert(service.as_str()) {
                open.extend(jobs.iter().find(|job| job.service == *service));
            }
        }
    }
    ended
}
