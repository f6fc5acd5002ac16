//! Services of one file that cannot be together: those that wait for each other in a circle, of which none would ever
//! start, and those that give their containers one name.

use std::collections::{BTreeMap, BTreeSet};

use convoke_model::JobSpec;

use crate::reach::Placed;
use crate::report::Report;

pub(crate) fn check(services: &[Placed<'_>], report: &mut Report) {
    circles(services, report);
    names(services, report);
}

/// Refuses services that wait for themselves, each circle once, at the first of its services.
fn circles(services: &[Placed<'_>], report: &mut Report) {
    let jobs: BTreeMap<&str, &JobSpec> = services.iter().map(|s| (s.job.service.as_str(), s.job)).collect();
    let mut told = BTreeSet::new();
    for service in services {
        let Some(circle) = circle(&jobs, &service.job.service) else { continue };
        if told.is_disjoint(&circle.iter().copied().collect()) {
            let at = service.at.get("depends_on");
            let message = format!("{} -> {}: none of them could ever start", circle.join(" -> "), circle[0]);
            at.as_ref().unwrap_or(service.at).refuse(report, message);
        }
        told.extend(circle);
    }
}

/// The way from a service through those that each waits for, back to itself.
fn circle<'a>(jobs: &BTreeMap<&'a str, &'a JobSpec>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while let Some(way) = ways.pop() {
        let last = jobs.get(way.last()?)?;
        for next in last.container.depends_on.keys() {
            if next == start {
                return Some(way);
            }
            if jobs.contains_key(next.as_str()) && seen.insert(next.as_str()) {
                ways.push(way.iter().copied().chain([next.as_str()]).collect());
            }
        }
    }
    None
}

fn names(services: &[Placed<'_>], report: &mut Report) {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for service in services {
        let Some(name) = &service.job.container.container_name else { continue };
        if let Some(first) = taken.insert(name, &service.job.service) {
            let at = service.at.get("container_name");
            let message =
                format!("\"{name}\" is the container of \"{first}\", too; give each a name of its own");
            at.as_ref().unwrap_or(service.at).refuse(report, message);
        }
    }
}
