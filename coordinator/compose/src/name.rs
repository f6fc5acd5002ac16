//! A project's name: `-p`, `COMPOSE_PROJECT_NAME`, the file's `name`, else the directory's.

use std::path::Path;

use crate::report::Report;
use crate::tree::Node;

/// The rule that Compose has for given names.
pub(crate) fn is_valid(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}

/// A directory's name made into a project's, as Compose does it.
pub(crate) fn normalised(name: &str) -> String {
    let good = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let kept: String = name.to_lowercase().chars().filter(good).collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}

pub(crate) struct Sources<'a> {
    /// `-p`, or `COMPOSE_PROJECT_NAME`, and which of them it was.
    pub(crate) given: Option<(&'static str, &'a str)>,
    /// The last file's `name`, filled in.
    pub(crate) written: Option<&'a Node>,
    pub(crate) dir: &'a Path,
}

/// The name, or the problem in the report and a stand-in.
pub(crate) fn choose(sources: &Sources<'_>, report: &mut Report) -> String {
    const RULE: &str = "may hold only a-z, 0-9, \"-\" and \"_\", and must start with a letter or a digit";
    if let Some((from, name)) = sources.given {
        if !is_valid(name) {
            report.problem(None, "", format!("project name \"{name}\" ({from}) {RULE}"));
        }
        return name.to_owned();
    }
    if let Some(node) = sources.written {
        let name = node.as_str().unwrap_or_default();
        if !is_valid(name) {
            report.problem(Some(&node.place), "name", format!("project name \"{name}\" {RULE}"));
        }
        return name.to_owned();
    }
    let dir = sources.dir.file_name().unwrap_or_default().to_string_lossy();
    let name = normalised(&dir);
    if name.is_empty() {
        let message =
            format!("no project name can be made from the directory name \"{dir}\"; give one with -p NAME");
        report.problem(None, "", message);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_is_cleaned_as_compose_does() {
        assert_eq!(normalised("My Project.v2"), "myprojectv2");
        assert_eq!(normalised("_-x_y-z"), "x_y-z");
        assert_eq!(normalised("日本"), "");
    }
}
