//! `extends`: a service that starts from another one, of the same file or of another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::files;
use crate::merge::merge;
use crate::report::Report;
use crate::tree::{Node, Value};

/// Nobody follows a longer chain; the bound keeps recursion along it harmless.
const MAX_CHAIN: usize = 32;

/// Reads, parses and interpolates a file; `None` when that was refused and reported.
pub(crate) type Open<'a> = dyn FnMut(&Path, &mut Report) -> Option<Node> + 'a;

/// A file with the directory that its `extends.file` paths are relative to.
#[derive(Clone)]
struct Source {
    path: PathBuf,
    root: Rc<Node>,
}

pub(crate) struct Extends<'a> {
    /// The directory that relative paths of the result mean.
    pub(crate) project_dir: &'a Path,
    pub(crate) open: &'a mut Open<'a>,
    opened: BTreeMap<PathBuf, Option<Source>>,
    /// What is being resolved, to find a circle.
    chain: Vec<(PathBuf, String)>,
}

impl<'a> Extends<'a> {
    pub(crate) fn new(project_dir: &'a Path, open: &'a mut Open<'a>) -> Self {
        Self { project_dir, open, opened: BTreeMap::new(), chain: Vec::new() }
    }

    /// The file with every `extends` of its services filled in.
    pub(crate) fn resolve(&mut self, path: &Path, mut root: Node, report: &mut Report) -> Node {
        let source = Source { path: path.to_owned(), root: Rc::new(root.clone()) };
        if let Some(Node { value: Value::Map(services), .. }) = root.get_mut("services") {
            for entry in services {
                if entry.node.get("extends").is_some()
                    && let Some(node) = self.service(&source, &entry.key, report)
                {
                    entry.node = node;
                }
            }
        }
        root
    }

    fn service(&mut self, source: &Source, name: &str, report: &mut Report) -> Option<Node> {
        let mut service = source.root.get("services")?.get(name)?.clone();
        let path = format!("services.{name}.extends");
        let Some(extends) = take(&mut service, "extends") else { return Some(service) };
        let step = (source.path.clone(), name.to_owned());
        if self.chain.contains(&step) {
            report.problem(Some(&extends.place), path, "extends itself, through other services or at once");
            return None;
        }
        if self.chain.len() >= MAX_CHAIN {
            report.problem(
                Some(&extends.place),
                path,
                format!("extends over more than {MAX_CHAIN} services"),
            );
            return None;
        }
        let named = if extends.as_str().is_some() { Some(&extends) } else { extends.get("service") };
        let Some(base_name) = named.and_then(Node::as_str) else {
            report.problem(
                Some(&extends.place),
                path,
                "expected a service's name, or a map with \"service\"",
            );
            return None;
        };
        let from = match extends.get("file").map(|n| (n, n.as_str())) {
            None => source.clone(),
            Some((node, Some(file))) => self.open_file(source, node, file, report)?,
            Some((node, None)) => {
                report.problem(Some(&node.place), path, "expected a file name as \"file\"");
                return None;
            }
        };
        if from.root.get("services").and_then(|s| s.get(base_name)).is_none() {
            let file = &from.root.place.file;
            report.problem(Some(&extends.place), path, format!("no service \"{base_name}\" in {file}"));
            return None;
        }
        self.chain.push(step);
        let base = self.service(&from, base_name, report);
        self.chain.pop();
        Some(merge(base?, service, &mut vec!["services".to_owned(), name.to_owned()]))
    }

    fn open_file(&mut self, from: &Source, at: &Node, file: &str, report: &mut Report) -> Option<Source> {
        let dir = from.path.parent().unwrap_or(Path::new("/"));
        let path = files::absolute(dir, Path::new(file));
        if let Some(known) = self.opened.get(&path) {
            return known.clone();
        }
        let before = report.problems.len();
        let root = (self.open)(&path, report);
        // What no file could say of itself (that it is missing) is said of the line that names it.
        for problem in report.problems.iter_mut().skip(before).filter(|p| p.place.is_none()) {
            problem.place = Some(at.place.clone());
        }
        let source = root.map(|mut root| {
            rebase(&mut root, path.parent().unwrap_or(Path::new("/")), self.project_dir);
            Source { path: path.clone(), root: Rc::new(root) }
        });
        self.opened.insert(path, source.clone());
        source
    }
}

fn take(node: &mut Node, key: &str) -> Option<Node> {
    let Value::Map(entries) = &mut node.value else { return None };
    let index = entries.iter().position(|e| e.key == key)?;
    Some(entries.remove(index).node)
}

/// Paths that another file's services give relative to that file, made relative to the project.
fn rebase(root: &mut Node, from: &Path, to: &Path) {
    let Some(Node { value: Value::Map(services), .. }) = root.get_mut("services") else { return };
    let move_path = |node: &mut Node| {
        if let Value::Scalar(text) = &mut node.value
            && !text.starts_with(['/', '~'])
            && !text.contains("://")
        {
            *text = files::relative(to, &files::absolute(from, Path::new(text)));
        }
    };
    for service in services.iter_mut().map(|e| &mut e.node) {
        if let Some(build) = service.get_mut("build") {
            match build.get_mut("context") {
                Some(context) => move_path(context),
                None => move_path(build),
            }
        }
        if let Some(node) = service.get_mut("env_file") {
            match &mut node.value {
                Value::List(items) => items.iter_mut().for_each(|item| match item.get_mut("path") {
                    Some(path) => move_path(path),
                    None => move_path(item),
                }),
                _ => move_path(node),
            }
        }
        if let Some(Node { value: Value::List(volumes), .. }) = service.get_mut("volumes") {
            volumes.iter_mut().for_each(|volume| rebase_volume(volume, &move_path));
        }
    }
}

fn rebase_volume(volume: &mut Node, move_path: &dyn Fn(&mut Node)) {
    let bind = volume.get("type").and_then(Node::as_str) == Some("bind");
    if let Some(source) = volume.get_mut("source") {
        if bind {
            move_path(source);
        }
    } else if let Value::Scalar(text) = &mut volume.value
        && text.starts_with('.')
        && let Some((source, rest)) = text.split_once(':')
    {
        let mut source = Node::scalar(volume.place.clone(), source);
        move_path(&mut source);
        *text = format!("{}:{rest}", source.as_str().unwrap_or_default());
    }
}
