//! A Compose `build` section as a `docker build` command.

use std::path::Path;

use serde_json::{Map, Value};

/// A command line, and the Dockerfile where that stands in the job file itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Build {
    pub(super) args: Vec<String>,
    pub(super) input: Option<String>,
}

/// The command that makes `image` from `section`, Compose's long form in JSON. The error names what
/// `docker build` cannot be told.
pub(super) fn command(section: &str, image: &str, project: &Path, pull: bool) -> Result<Build, String> {
    let section: Map<String, Value> =
        serde_json::from_str(section).map_err(|e| format!("it cannot be read: {e}"))?;
    if section.get("secrets").is_some_and(|secrets| !list(secrets).is_empty()) {
        return Err("its secrets do not travel; build the image with `docker build` and name it with image:"
            .to_owned());
    }
    let mut args = vec!["build".to_owned(), "--tag".to_owned(), image.to_owned()];
    let context = text(&section, "context").unwrap_or(".");
    let context = if is_remote(context) {
        context.to_owned()
    } else {
        let path: std::path::PathBuf = project.join(context).components().collect();
        path.display().to_string()
    };
    let input = dockerfile(&section, &context, &mut args);
    for (key, flag) in SINGLE {
        if let Some(value) = text(&section, key) {
            push(&mut args, flag, value.to_owned());
        }
    }
    for (key, flag) in EACH {
        for value in section.get(*key).map(list).unwrap_or_default() {
            push(&mut args, flag, value);
        }
    }
    for (key, flag, between) in PAIRS {
        for (name, value) in section.get(*key).map(pairs).unwrap_or_default() {
            push(&mut args, flag, value.map_or(name.clone(), |value| format!("{name}{between}{value}")));
        }
    }
    let platforms = section.get("platforms").map(list).unwrap_or_default();
    if !platforms.is_empty() {
        push(&mut args, "--platform", platforms.join(","));
    }
    if pull || is_true(&section, "pull") {
        args.push("--pull".to_owned());
    }
    if is_true(&section, "no_cache") {
        args.push("--no-cache".to_owned());
    }
    if is_true(&section, "privileged") {
        push(&mut args, "--allow", "security.insecure".to_owned());
    }
    args.push(context);
    Ok(Build { args, input })
}

const SINGLE: &[(&str, &str)] = &[
    ("target", "--target"),
    ("network", "--network"),
    ("shm_size", "--shm-size"),
    ("isolation", "--isolation"),
];

const EACH: &[(&str, &str)] = &[
    ("cache_from", "--cache-from"),
    ("cache_to", "--cache-to"),
    ("tags", "--tag"),
    ("ssh", "--ssh"),
    ("entitlements", "--allow"),
];

/// Lists or maps of names and values, and what stands between the two.
const PAIRS: &[(&str, &str, &str)] = &[
    ("args", "--build-arg", "="),
    ("labels", "--label", "="),
    ("extra_hosts", "--add-host", ":"),
    ("additional_contexts", "--build-context", "="),
    ("ulimits", "--ulimit", "="),
];

fn push(args: &mut Vec<String>, flag: &str, value: String) {
    args.push(flag.to_owned());
    args.push(value);
}

/// Says where the Dockerfile is; returns one that stands in the job file.
fn dockerfile(section: &Map<String, Value>, context: &str, args: &mut Vec<String>) -> Option<String> {
    if let Some(inline) = text(section, "dockerfile_inline") {
        push(args, "--file", "-".to_owned());
        return Some(inline.to_owned());
    }
    if let Some(file) = text(section, "dockerfile") {
        // Compose means it from the context, the command from where it runs.
        let file = if is_remote(context) {
            file.to_owned()
        } else {
            format!("{}", Path::new(context).join(file).display())
        };
        push(args, "--file", file);
    }
    None
}

fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}

fn text<'a>(section: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    section.get(key).and_then(Value::as_str)
}

fn is_true(section: &Map<String, Value>, key: &str) -> bool {
    matches!(section.get(key), Some(Value::Bool(true)))
        || matches!(text(section, key), Some("true" | "yes" | "on" | "1"))
}

/// One text, a list of them, or the keys of a map.
fn list(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// `["A=b", "C"]` or `{"A": "b", "C": null}`; a map of limits is `soft:hard`.
fn pairs(value: &Value) -> Vec<(String, Option<String>)> {
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), scalar(value))).collect(),
        other => list(other).into_iter().map(|text| (text, None)).collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(limits) => {
            let part = |key| limits.get(key).and_then(scalar).unwrap_or_default();
            Some(format!("{}:{}", part("soft"), part("hard")))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(section: &str) -> String {
        command(section, "p_train", Path::new("/home/u/p"), false).unwrap().args.join(" ")
    }

    #[test]
    fn a_directory_alone_is_the_context() {
        assert_eq!(built(r#"{"context": "."}"#), "build --tag p_train /home/u/p");
        assert_eq!(built(r#"{"context": "./docker"}"#), "build --tag p_train /home/u/p/docker");
        let git = "https://example.org/r.git#main:dir";
        assert_eq!(built(&format!(r#"{{"context": "{git}"}}"#)), format!("build --tag p_train {git}"));
    }

    #[test]
    fn every_key_has_its_flag() {
        let section = r#"{
            "context": "ctx", "dockerfile": "gpu.Dockerfile", "target": "runtime", "network": "host",
            "shm_size": "1g", "args": {"CUDA": "13", "TOKEN": null}, "labels": ["a=b"],
            "cache_from": ["p:cache"], "extra_hosts": ["h:10.0.0.1"], "tags": ["p:extra"],
            "ulimits": {"nofile": {"soft": "10", "hard": "20"}, "nproc": "5"},
            "platforms": ["linux/amd64"], "pull": "true", "no_cache": "true"
        }"#;
        let flags = built(section);
        for flag in [
            "--file /home/u/p/ctx/gpu.Dockerfile",
            "--target runtime",
            "--network host",
            "--shm-size 1g",
            "--build-arg CUDA=13",
            "--build-arg TOKEN",
            "--label a=b",
            "--cache-from p:cache",
            "--add-host h:10.0.0.1",
            "--tag p:extra",
            "--ulimit nofile=10:20",
            "--ulimit nproc=5",
            "--platform linux/amd64",
            "--pull",
            "--no-cache",
        ] {
            assert!(flags.contains(flag), "no {flag} in: {flags}");
        }
        assert!(flags.ends_with(" /home/u/p/ctx"), "{flags}");
    }

    #[test]
    fn a_dockerfile_in_the_job_file_goes_through_stdin() {
        let build = command(r#"{"context": ".", "dockerfile_inline": "FROM x"}"#, "t", Path::new("/p"), true);
        let build = build.unwrap();
        assert_eq!(build.input.as_deref(), Some("FROM x"));
        assert_eq!(build.args.join(" "), "build --tag t --file - --pull /p");
    }

    #[test]
    fn what_the_command_cannot_be_told_is_refused() {
        let refused = command(r#"{"context": ".", "secrets": ["token"]}"#, "t", Path::new("/p"), false);
        assert!(refused.unwrap_err().contains("secrets"));
        assert!(command("{", "t", Path::new("/p"), false).is_err());
    }
}
