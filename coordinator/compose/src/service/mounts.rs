//! `volumes` and `tmpfs`.

use convoke_model::{Mount, MountKind};

use super::Scope;
use crate::cursor::Cursor;
use crate::report::Report;

pub(super) struct Mounts {
    pub(super) volumes: Vec<Mount>,
    pub(super) tmpfs: Vec<String>,
}

pub(super) fn read(scope: &Scope<'_>, service: &Cursor<'_>, report: &mut Report) -> Mounts {
    let mut mounts = Mounts { volumes: Vec::new(), tmpfs: Vec::new() };
    if let Some(tmpfs) = service.get("tmpfs") {
        for at in tmpfs.one_or_more(report, "paths") {
            if let Some(text) = at.string(report)
                && is_target(&at, text.split(':').next().unwrap_or_default(), report)
            {
                mounts.tmpfs.push(text);
            }
        }
    }
    for at in service.get("volumes").map(|v| v.items(report, "mounts")).unwrap_or_default() {
        let mount =
            if at.is_map() { long(scope, &at, &mut mounts.tmpfs, report) } else { short(scope, &at, report) };
        let Some(mount) = mount else { continue };
        if mounts.volumes.iter().any(|m| m.target == mount.target) {
            at.refuse(report, format!("{} is already mounted by an entry above", mount.target));
        } else {
            mounts.volumes.push(mount);
        }
    }
    mounts
}

fn is_target(at: &Cursor<'_>, target: &str, report: &mut Report) -> bool {
    if target.starts_with('/') {
        return true;
    }
    at.refuse(report, format!("\"{target}\" is not an absolute path inside the container"));
    false
}

/// `[SOURCE:]TARGET[:MODE]`.
fn short(scope: &Scope<'_>, at: &Cursor<'_>, report: &mut Report) -> Option<Mount> {
    let text = at.text(report)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => {
            at.refuse(report, format!("expected SOURCE:TARGET or SOURCE:TARGET:ro, found \"{text}\""));
            return None;
        }
    };
    if parts.len() > 1 && source.is_empty() {
        at.refuse(report, format!("\"{text}\" has an empty source; was a variable not set?"));
        return None;
    }
    if !is_target(at, target, report) {
        return None;
    }
    let mut read_only = false;
    for option in mode.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" | "private" | "rprivate"
            | "shared" | "rshared" | "slave" | "rslave" => {
                at.note(report, format!("mount option \"{option}\" has no effect"));
            }
            _ => at.refuse(report, format!("unknown mount option \"{option}\"; use ro or rw")),
        }
    }
    let (kind, source) = source_of(scope, at, source, source.starts_with(['.', '/', '~']), report)?;
    Some(Mount { kind, source, target: target.to_owned(), read_only, content: None, shared: None })
}

/// A bind's path or a volume's name, as the spec holds it.
fn source_of(
    scope: &Scope<'_>,
    at: &Cursor<'_>,
    source: &str,
    bind: bool,
    report: &mut Report,
) -> Option<(MountKind, String)> {
    if bind {
        return bind_source(scope, at, source, report).map(|path| (MountKind::Bind, path));
    }
    if source.is_empty() {
        return Some((MountKind::Volume, String::new()));
    }
    match scope.top.volumes.get(source) {
        Some(name) => Some((MountKind::Volume, name.clone())),
        None => {
            at.refuse(
                report,
                format!(
                    "no volume \"{source}\" under the top-level volumes; write ./{source} for a directory"
                ),
            );
            None
        }
    }
}

fn bind_source(scope: &Scope<'_>, at: &Cursor<'_>, source: &str, report: &mut Report) -> Option<String> {
    if let Some(below) = source.strip_prefix('~') {
        let home =
            scope.vars.get("HOME").filter(|h| !h.is_empty() && (below.is_empty() || below.starts_with('/')));
        let Some(home) = home else {
            at.refuse(report, format!("cannot expand \"{source}\": write the path out"));
            return None;
        };
        at.note(
            report,
            format!("\"{source}\" is {home}{below} on the nodes; a relative path would travel with the job"),
        );
        return Some(format!("{home}{below}"));
    }
    if source.starts_with('/') {
        absolute(scope, at, source, report);
        return Some(source.to_owned());
    }
    let path = crate::files::absolute(scope.project_dir, std::path::Path::new(source));
    Some(crate::files::relative(scope.project_dir, &path))
}

/// Directories that every host has for itself, and nobody would want to travel.
const OF_EVERY_HOST: [&str; 9] =
    ["/dev", "/etc", "/lib", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/run"];

/// An absolute path means something else than it did on the submitter's one host.
fn absolute(scope: &Scope<'_>, at: &Cursor<'_>, source: &str, report: &mut Report) {
    let path = std::path::Path::new(source);
    if path.starts_with(scope.project_dir) {
        let relative = crate::files::relative(scope.project_dir, path);
        at.note(
            report,
            format!(
                "{source} is an absolute path, so it is each node's own; write {relative} to send it along"
            ),
        );
    } else if path.parent().is_some() && !OF_EVERY_HOST.iter().any(|dir| path.starts_with(dir)) {
        at.note(report, format!("{source} is each node's own; a relative path would travel with the job"));
    }
}

fn long(scope: &Scope<'_>, at: &Cursor<'_>, tmpfs: &mut Vec<String>, report: &mut Report) -> Option<Mount> {
    at.only(
        report,
        &["type", "source", "target", "read_only", "bind", "volume", "tmpfs", "consistency"],
        &[("image", "copy the files into the task's own image")],
    );
    let kinds = [("bind", MountKind::Bind), ("volume", MountKind::Volume), ("tmpfs", MountKind::Tmpfs)];
    let Some(kind) = at.get("type") else {
        at.refuse(report, "needs a \"type\": bind, volume or tmpfs");
        return None;
    };
    let kind = kind.word(report, &kinds)?;
    let Some(target) = at.get("target") else {
        at.refuse(report, "needs a \"target\", the path inside the container");
        return None;
    };
    let target = target.text(report)?;
    options(at, report);
    if !is_target(at, target, report) {
        return None;
    }
    let read_only = at.get("read_only").and_then(|r| r.boolean(report)).unwrap_or(false);
    if kind == MountKind::Tmpfs {
        tmpfs.push(long_tmpfs(at, target, report)?);
        return None;
    }
    let source = at.get("source").map_or(Some(""), |s| s.text(report))?;
    if kind == MountKind::Bind && source.is_empty() {
        at.refuse(report, "a bind mount needs a \"source\"");
        return None;
    }
    let (kind, source) = source_of(scope, at, source, kind == MountKind::Bind, report)?;
    Some(Mount { kind, source, target: target.to_owned(), read_only, content: None, shared: None })
}

/// As the short form writes it: `TARGET:size=…,mode=…`.
fn long_tmpfs(at: &Cursor<'_>, target: &str, report: &mut Report) -> Option<String> {
    let mut options = Vec::new();
    let option = |key| at.get("tmpfs").and_then(|t| t.get(key));
    if let Some(size) = option("size") {
        options.push(format!("size={}", size.bytes(report)?));
    }
    if let Some(mode) = option("mode") {
        let text = mode.text(report)?;
        let digits = text.strip_prefix("0o").unwrap_or(text);
        if u32::from_str_radix(digits, 8).is_err() {
            mode.refuse(report, format!("expected permission bits in octal such as 1777, found \"{text}\""));
            return None;
        }
        options.push(format!("mode={digits}"));
    }
    Some(if options.is_empty() { target.to_owned() } else { format!("{target}:{}", options.join(",")) })
}

/// The nested option maps: known, and without effect but for a tmpfs's.
fn options(at: &Cursor<'_>, report: &mut Report) {
    if let Some(consistency) = at.get("consistency") {
        consistency.note(report, "has no effect");
    }
    let subpath = &[("subpath", "mount the whole volume")];
    if let Some(bind) = at.get("bind") {
        bind.only(report, &["propagation", "create_host_path", "selinux", "recursive"], &[]);
        bind.note(report, "has no effect");
    }
    if let Some(consistency) = at.get("consistency") {
        consistency.note(report, "has no effect");
    }
    if let Some(volume) = at.get("volume") {
        volume.only(report, &["nocopy", "labels"], subpath);
        volume.note(report, "has no effect");
    }
    if let Some(tmpfs) = at.get("tmpfs") {
        tmpfs.only(report, &["size", "mode"], &[]);
    }
}
