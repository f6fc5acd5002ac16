//! Image references, as far as comparing them goes.

/// An image's name in its parts: `repository[:tag][@digest]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    pub(super) repository: &'a str,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    pub(super) fn parse(name: &'a str) -> Self {
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (name, None),
        };
        // A colon before a slash belongs to the registry's port.
        match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => Self { repository, tag: Some(tag), digest },
            _ => Self { repository: name, tag: None, digest },
        }
    }

    /// Without what a name may leave out.
    fn familiar(&self) -> &'a str {
        let name = self.repository;
        let name =
            name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/")).unwrap_or(name);
        name.strip_prefix("library/").unwrap_or(name)
    }
}

/// The name with its tag spelled out: an engine asked for a bare name may give every tag of it.
pub(super) fn tagged(name: &str) -> String {
    match Reference::parse(name) {
        Reference { tag: None, digest: None, .. } => format!("{name}:latest"),
        _ => name.to_owned(),
    }
}

/// Of an image's digests in registries, the one in `name`'s own repository: the same bits may lie in
/// others, which do not know it by that name.
pub(super) fn own_digest(name: &str, repo_digests: &[String]) -> Option<String> {
    let own = Reference::parse(name);
    repo_digests.iter().find_map(|candidate| {
        let candidate = Reference::parse(candidate);
        (candidate.familiar() == own.familiar()).then(|| candidate.digest.map(ToOwned::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        let parts = |name| {
            let Reference { repository, tag, digest } = Reference::parse(name);
            (repository, tag, digest)
        };
        assert_eq!(parts("python"), ("python", None, None));
        assert_eq!(parts("host:5000/team/x"), ("host:5000/team/x", None, None));
        assert_eq!(parts("host:5000/team/x:1@sha256:ab"), ("host:5000/team/x", Some("1"), Some("sha256:ab")));
    }

    #[test]
    fn the_tag_is_spelled_out_where_there_is_none() {
        assert_eq!(tagged("host:5000/x"), "host:5000/x:latest");
        assert_eq!(tagged("x:1"), "x:1");
        assert_eq!(tagged("x@sha256:ab"), "x@sha256:ab");
    }

    #[test]
    fn only_the_digest_of_the_own_repository_pins() {
        let digests = ["127.0.0.1:5911/team/tiny@sha256:aa", "python@sha256:bb"].map(ToOwned::to_owned);
        assert_eq!(own_digest("docker.io/library/python:3.12", &digests).as_deref(), Some("sha256:bb"));
        assert_eq!(own_digest("team/tiny:1", &digests), None);
        assert_eq!(own_digest("127.0.0.1:5911/team/tiny:1", &digests).as_deref(), Some("sha256:aa"));
    }
}
