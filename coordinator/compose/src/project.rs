//! A project: loading its files, and what came out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convoke_model::JobSpec;

use crate::cursor::Cursor;
use crate::extends::Extends;
use crate::files::{self, Files};
use crate::interpolate::interpolate;
use crate::merge::{merge, settle};
use crate::report::{ComposeErrors, Note, Report};
use crate::toplevel::{self, TopLevel};
use crate::tree::{Node, Value};
use crate::{conflicts, envfile, name, reach, service, sharing, yaml};

/// What a load takes from the command line and the process.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The directory the user stands in; absolute.
    pub working_dir: PathBuf,
    /// `-f`, in order; empty: `COMPOSE_FILE`, else the usual names in the working directory or the
    /// nearest one above.
    pub files: Vec<PathBuf>,
    /// `--project-directory`; else the first file's directory.
    pub project_dir: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// The process's environment.
    pub env: BTreeMap<String, String>,
    /// `--env-file`, later ones winning; empty: `.env` in the project directory, if there is one.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `COMPOSE_PROFILES` adds to them. `*` is all.
    pub profiles: Vec<String>,
    /// Only these services, whatever their profiles, and those they wait for (`depends_on`); empty: all
    /// that the profiles select.
    pub services: Vec<String>,
    /// `--nodes`: overrides every `deploy.replicas`.
    pub nodes: Option<u32>,
}

/// A project as understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    pub name: String,
    /// The directory that relative paths mean; absolute.
    pub dir: PathBuf,
    /// One per selected service, by service name.
    pub jobs: Vec<JobSpec>,
    /// In the order of the files' lines.
    pub notes: Vec<Note>,
    /// All files as one.
    pub(crate) tree: Node,
}

impl Project {
    /// Loads from the disk.
    pub fn load(options: &LoadOptions) -> Result<Self, ComposeErrors> {
        Self::load_from(options, &files::Disk)
    }

    /// Loads through `files`. All problems that one run can find come back together.
    pub fn load_from(options: &LoadOptions, files: &dyn Files) -> Result<Self, ComposeErrors> {
        let mut loader = Loader { options, files, vars: BTreeMap::new(), report: Report::default() };
        loader.load()
    }
}

struct Loader<'a> {
    options: &'a LoadOptions,
    files: &'a dyn Files,
    /// What interpolation sees: the environment over the environment files.
    vars: BTreeMap<String, String>,
    report: Report,
}

impl Loader<'_> {
    fn load(&mut self) -> Result<Project, ComposeErrors> {
        let paths = self.paths();
        self.report.check()?;
        let first_dir = paths.first().and_then(|p| p.parent()).unwrap_or(Path::new("/"));
        let dir = match &self.options.project_dir {
            Some(dir) => files::absolute(&self.options.working_dir, dir),
            None => first_dir.to_owned(),
        };
        self.environment(&dir);
        let mut roots = Vec::new();
        for path in &paths {
            let Some(root) = self.parse(path) else { continue };
            roots.push((path.clone(), root));
        }
        self.report.check()?;
        let name = self.name(&dir, &roots);
        self.vars.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
        let root = self.combined(&dir, roots);
        self.report.check()?;
        let jobs = self.jobs(&name, &dir, &root);
        self.report.check()?;
        let mut notes = std::mem::take(&mut self.report.notes);
        notes.sort_by(|a, b| a.place.cmp(&b.place));
        notes.dedup();
        Ok(Project { name, dir, jobs, notes, tree: root })
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.options.env.get(name).cloned()
    }

    fn display(&self, path: &Path) -> Arc<str> {
        Arc::from(files::display(&self.options.working_dir, path))
    }

    fn profiles(&self) -> Vec<String> {
        let from_env = self.vars.get("COMPOSE_PROFILES").map_or("", String::as_str);
        let from_env = from_env.split(',').map(str::trim).filter(|p| !p.is_empty());
        self.options.profiles.iter().cloned().chain(from_env.map(ToOwned::to_owned)).collect()
    }

    fn paths(&mut self) -> Vec<PathBuf> {
        let from = &self.options.working_dir;
        if !self.options.files.is_empty() {
            return self.options.files.iter().map(|f| files::absolute(from, f)).collect();
        }
        if let Some(list) = self.variable("COMPOSE_FILE").filter(|l| !l.is_empty()) {
            return list.split(':').map(|f| files::absolute(from, Path::new(f))).collect();
        }
        let start = self.options.project_dir.as_ref().map_or(from.clone(), |d| files::absolute(from, d));
        let Some(found) = files::discover(self.files, &start) else {
            let message = format!(
                "no compose.yaml or docker-compose.yml in {} or above; name the job file with -f FILE",
                start.display()
            );
            self.report.problem(None, "", message);
            return Vec::new();
        };
        for path in found.ignored {
            let (path, used) = (self.display(&path), self.display(&found.files[0]));
            self.report.note(None, "", format!("{path} is ignored: {used} comes first"));
        }
        found.files
    }

    fn environment(&mut self, dir: &Path) {
        let given = !self.options.env_files.is_empty();
        let paths = if given {
            let from = &self.options.working_dir;
            self.options.env_files.iter().map(|f| files::absolute(from, f)).collect()
        } else {
            vec![dir.join(".env")]
        };
        for path in paths {
            let shown = self.display(&path);
            let bytes = match self.files.read(&path) {
                Ok(bytes) => bytes,
                Err(e) if !given && e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => {
                    let message = format!("cannot read environment file {shown}: {}", files::why(&e));
                    self.report.problem(None, "", message);
                    continue;
                }
            };
            let environment =
                |name: &str| self.options.env.get(name).or_else(|| self.vars.get(name)).cloned();
            match envfile::parse(&shown, &bytes, false, &environment) {
                Ok(variables) => {
                    self.vars.extend(variables.into_iter().filter_map(|v| Some((v.key, v.value?))))
                }
                Err(problem) => self.report.problems.push(problem),
            }
        }
        self.vars.extend(self.options.env.clone());
    }

    fn parse(&mut self, path: &Path) -> Option<Node> {
        let shown = self.display(path);
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.report.problem(None, "", format!("cannot read {shown}: {}", files::why(&e)));
                return None;
            }
        };
        match yaml::parse(&shown, &bytes) {
            Ok(root) if matches!(root.value, Value::Map(_)) => Some(root),
            Ok(root) => {
                let message = format!("a job file is a map with a \"services\" key, found {}", root.kind());
                self.report.problem(Some(&root.place), "", message);
                None
            }
            Err(problems) => {
                self.report.problems.extend(problems);
                None
            }
        }
    }

    fn name(&mut self, dir: &Path, roots: &[(PathBuf, Node)]) -> String {
        let mut written = roots.iter().rev().find_map(|(_, root)| root.get("name")).cloned();
        if let Some(node) = &mut written {
            // Reported again, with its path, when the whole file is filled in.
            fill(node, &self.vars, "name", &mut Report::default());
        }
        let flag = self.options.project_name.as_deref().map(|n| ("-p", n));
        let given = flag.or_else(|| {
            let name = self.vars.get("COMPOSE_PROJECT_NAME").filter(|n| !n.is_empty())?;
            Some(("COMPOSE_PROJECT_NAME", name.as_str()))
        });
        name::choose(&name::Sources { given, written: written.as_ref(), dir }, &mut self.report)
    }

    /// All files as one tree.
    fn combined(&mut self, dir: &Path, roots: Vec<(PathBuf, Node)>) -> Node {
        let mut report = std::mem::take(&mut self.report);
        let vars = self.vars.clone();
        let mut open = |path: &Path, report: &mut Report| {
            std::mem::swap(&mut self.report, report);
            let root = self.parse(path);
            std::mem::swap(&mut self.report, report);
            let mut root = root?;
            fill(&mut root, &vars, "", report);
            Some(root)
        };
        let mut extends = Extends::new(dir, &mut open);
        let mut all: Option<Node> = None;
        for (path, mut root) in roots {
            fill(&mut root, &vars, "", &mut report);
            let root = extends.resolve(&path, root, &mut report);
            all = Some(match all {
                None => root,
                Some(base) => merge(base, root, &mut Vec::new()),
            });
        }
        self.report = report;
        let mut root = all.expect("at least one file was read, or the load has ended");
        settle(&mut root);
        root
    }

    fn jobs(&mut self, name: &str, dir: &Path, root: &Node) -> Vec<JobSpec> {
        let cursor = Cursor::new(root, "");
        let top = TopLevel::read(&cursor, name, &mut self.report);
        let selected = toplevel::select(&cursor, self.options, &self.profiles(), &mut self.report);
        let active: Vec<&str> = selected.iter().map(|(name, _)| name.as_str()).collect();
        let scope = service::Scope {
            project: name,
            project_dir: dir,
            working_dir: &self.options.working_dir,
            vars: &self.vars,
            files: self.files,
            top: &top,
            nodes: self.options.nodes,
            training: selected.iter().any(|(_, at)| service::reserves(at)),
            active: &active,
        };
        let services = selected.iter();
        let services = services.filter_map(|(name, at)| service::read(&scope, name, at, &mut self.report));
        let (mut jobs, claims): (Vec<_>, Vec<_>) = services.map(|s| (s.job, s.claim)).unzip();
        sharing::settle(&mut jobs, claims.into_iter().flatten().collect(), &mut self.report);
        let at = |job: &JobSpec| selected.iter().find(|(name, _)| *name == job.service).map(|(_, at)| at);
        let placed = jobs.iter().filter_map(|job| Some(reach::Placed { at: at(job)?, job }));
        let placed: Vec<_> = placed.collect();
        conflicts::check(&placed, &mut self.report);
        reach::check(&placed, &mut self.report);
        jobs
    }
}

/// Fills variables into every value below `node`.
fn fill(node: &mut Node, vars: &BTreeMap<String, String>, path: &str, report: &mut Report) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(text) if !text.contains('$') => {}
        Value::Scalar(text) => match interpolate(text, &|name| vars.get(name).cloned()) {
            Ok(filled) => {
                *text = filled.text;
                for name in filled.unset {
                    let message = format!("variable \"{name}\" is not set; it becomes empty");
                    report.note(Some(&node.place), path, message);
                }
            }
            Err(error) => report.problem(Some(&node.place), path, error.to_string()),
        },
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                fill(item, vars, &format!("{path}[{i}]"), report);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                fill(&mut entry.node, vars, &format!("{path}{dot}{}", entry.key), report);
            }
        }
    }
}
