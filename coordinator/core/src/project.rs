//! What the services of one project share, as if they were on one host: names by which they find each
//! other, and files that one leaves to the next.
//!
//! Both are settled when a generation starts and hold for as long as it lasts: a service that starts again
//! elsewhere is not found by those that run, which are not disturbed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use convoke_model::{JobId, NamedAddress, Predecessor};

use crate::draft::Draft;
use crate::{FilesOf, Job, Phase, Running, Stage, Starting, State};

/// Names that one generation is told, each a line of its tasks' `/etc/hosts`: a project of a hundred services
/// has some hundreds.
const MAX_NAMES: usize = 1_000;

impl Draft<'_> {
    /// The newest job that was made from a service of the job's project.
    pub(crate) fn service_of<'b>(&'b self, job: &Job, service: &str) -> Option<&'b Job> {
        let others = self.others(job).filter(|other| other.spec.service == service);
        others.max_by_key(|other| other.order)
    }

    /// Where the other services of its project are, as far as they are placed.
    pub(crate) fn services(&self, job: &Job) -> Vec<NamedAddress> {
        let mut placed = BTreeMap::<&str, &Job>::new();
        for other in self.others(job).filter(|other| other.spec.service != job.spec.service) {
            if matches!(other.run.phase, Phase::Starting(_) | Phase::Running(_)) {
                let newest = placed.entry(&other.spec.service).or_insert(other);
                *newest = if other.order > newest.order { other } else { newest };
            }
        }
        let called: Vec<(IpAddr, Vec<&str>)> = placed
            .values()
            .filter_map(|job| Some((self.address(job)?, job.spec.host_names().collect())))
            .collect();
        // What a service is also called gives way to the name of another.
        let first = called.iter().filter_map(|(at, names)| Some((*names.first()?, *at)));
        let also = called.iter().flat_map(|(at, names)| names.iter().skip(1).map(|name| (*name, *at)));
        let mut taken: BTreeSet<&str> = job.spec.host_names().collect();
        let named = first.chain(also).filter(|(name, _)| taken.insert(name));
        named.take(MAX_NAMES).map(|(name, address)| NamedAddress { name: name.to_owned(), address }).collect()
    }

    /// The jobs whose files it starts with, one after those that it waited for itself.
    pub(crate) fn files_of(&self, job: &Job) -> Vec<FilesOf> {
        let mut waited_for = Vec::new();
        self.collect_dependencies(job, &mut BTreeSet::from([job.id.clone()]), &mut waited_for);
        let leaves = waited_for.into_iter().filter(|other| leaves_files(other, job));
        let left = leaves.map(|other| FilesOf {
            job: other.id.clone(),
            ended_before: other.run.finished.is_some_and(|at| at < job.submitted),
        });
        left.collect()
    }

    fn collect_dependencies<'b>(&'b self, job: &Job, seen: &mut BTreeSet<JobId>, found: &mut Vec<&'b Job>) {
        for service in job.spec.container.depends_on.keys() {
            let Some(other) = self.service_of(job, service) else { continue };
            if seen.insert(other.id.clone()) {
                self.collect_dependencies(other, seen, found);
                found.push(other);
            }
        }
    }

    fn others<'b>(&'b self, job: &Job) -> impl Iterator<Item = &'b Job> {
        let jobs = self.state.jobs.values().map(|other| &**other);
        jobs.filter(move |other| other.id != job.id && other.spec.project == job.spec.project)
    }

    /// The data address of the node of its node rank 0.
    fn address(&self, job: &Job) -> Option<IpAddr> {
        let told = match &job.run.phase {
            Phase::Starting(Starting { stage: Stage::Released(release), .. })
            | Phase::Running(Running { release, .. }) => Some(release.rendezvous.master_addr),
            _ => None,
        };
        // Ranks behind ports meet at the loopback of a network of their own.
        if let Some(told) = told.filter(|address| !address.is_loopback()) {
            return Some(told);
        }
        let first = job.run.gang.as_ref()?.placement.replicas.first()?;
        let addresses = &self.state.nodes.get(&first.node)?.info.addresses;
        let wanted = addresses.iter().find(|a| Some(&a.interface) == job.spec.interface.as_ref());
        wanted.or(addresses.first()).map(|found| found.address).or(told)
    }
}

impl State {
    /// The job's predecessors that are known, as its agents are told of them.
    pub(crate) fn predecessors(&self, job: &Job) -> Vec<Predecessor> {
        let left = job.run.files_of.iter();
        let known = left.filter_map(|left| Some((self.jobs.get(&left.job)?, left.ended_before)));
        let told = known.map(|(other, ended_before)| Predecessor {
            job: other.id.clone(),
            project_dir: other.spec.project_dir.clone(),
            collect: other.spec.collect,
            volumes: (other.spec.container.volumes.iter())
                .filter(|mount| !mount.read_only && mount.content.is_some())
                .cloned()
                .collect(),
            ended_before,
        });
        told.collect()
    }
}

/// True if what the one writes is in a directory of the submitter's that the other mounts, too.
pub(crate) fn leaves_files(one: &Job, other: &Job) -> bool {
    let written = one.spec.container.volumes.iter().filter(|mount| !mount.read_only);
    let mut written = written.filter_map(|mount| mount.submitted(&one.spec.project_dir));
    let mounted = other.spec.container.volumes.iter();
    let mounted: Vec<_> = mounted.filter_map(|mount| mount.submitted(&other.spec.project_dir)).collect();
    written.any(|from| mounted.iter().any(|to| from.starts_with(to) || to.starts_with(&from)))
}
