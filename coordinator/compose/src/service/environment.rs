//! A service's environment: `env_file`s in order, then `environment` over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Scope;
use crate::cursor::Cursor;
use crate::report::{Place, Report};
use crate::{envfile, files};

/// Variables with where they were given, so that a later check can point there.
pub(super) type Environment = BTreeMap<String, (String, Place)>;

pub(super) fn read(scope: &Scope<'_>, at: &Cursor<'_>, report: &mut Report) -> Environment {
    let mut environment = Environment::new();
    if let Some(files) = at.get("env_file") {
        for file in files.one_or_more(report, "file names") {
            read_file(scope, &file, &mut environment, report);
        }
    }
    if let Some(given) = at.get("environment") {
        for (key, value, at) in given.pairs(report) {
            if key.is_empty() || key.contains('\0') {
                at.refuse(report, format!("\"{key}\" is not a variable name"));
                continue;
            }
            // A key alone passes on the submitter's own variable, and nothing when it has none.
            match value.or_else(|| scope.vars.get(&key).cloned()) {
                Some(value) if value.contains('\0') => at.refuse(report, "contains a NUL character"),
                Some(value) => _ = environment.insert(key, (value, at.node.place.clone())),
                None => {
                    at.note(
                        report,
                        format!("\"{key}\" has no value here and none in your environment; it stays unset"),
                    );
                    environment.remove(&key);
                }
            }
        }
    }
    environment
}

fn read_file(scope: &Scope<'_>, at: &Cursor<'_>, environment: &mut Environment, report: &mut Report) {
    let long = at.is_map();
    if long {
        at.only(report, &["path", "required", "format"], &[]);
    }
    let path = if long { at.get("path") } else { Some(at.clone()) };
    let Some(path) = path else { return at.refuse(report, "needs a \"path\"") };
    let Some(text) = path.text(report) else { return };
    let option = |key| if long { at.get(key) } else { None };
    let required = option("required").and_then(|r| r.boolean(report)).unwrap_or(true);
    let raw = option("format").and_then(|f| f.word(report, &[("raw", true)])).unwrap_or(false);
    let file = files::absolute(scope.project_dir, Path::new(&files::from_home(scope.vars, text)));
    let bytes = match scope.files.read(&file) {
        Ok(bytes) => bytes,
        Err(e) if !required && e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return path.refuse(report, format!("cannot read {text}: {}", files::why(&e))),
    };
    let shown: Arc<str> = Arc::from(files::display(scope.working_dir, &file));
    match envfile::parse(&shown, &bytes, raw, &|name| scope.vars.get(name).cloned()) {
        Ok(variables) => {
            for variable in variables {
                if let Some(value) = variable.value.or_else(|| scope.vars.get(&variable.key).cloned()) {
                    environment.insert(variable.key, (value, variable.place));
                }
            }
        }
        Err(problem) => report.problems.push(problem),
    }
}
