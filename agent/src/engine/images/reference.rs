//! Names of images, as Docker reads them: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.

use std::fmt;

const HUB: &str = "docker.io";
const HEX_DIGITS: usize = 64;

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not the name of an image: {problem}")]
pub struct BadReference {
    pub text: String,
    pub problem: &'static str,
}

/// A well-formed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As written, without tag and digest.
    name: String,
    /// `docker.io` where none is written.
    registry: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        let bad = |problem| BadReference { text: text.to_owned(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(bad("what follows \"@\" is not sha256: and 64 hexadecimal digits")),
            None => (text, None),
        };
        // A colon before a slash belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let good_tag = |tag: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            (1..=128).contains(&tag.len()) && tag.chars().all(good) && !tag.starts_with(['.', '-'])
        };
        if tag.is_some_and(|tag| !good_tag(tag)) {
            return Err(bad("a tag has letters, digits, \"_\", \".\" and \"-\", at most 128"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (HUB, name),
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
        let good_part = |part: &str| {
            part.chars().all(good)
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        if !repository.split('/').all(good_part) {
            return Err(bad(
                "its parts have lower-case letters, digits, and \"_\", \".\" and \"-\" between them",
            ));
        }
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        let tag = tag.map(ToOwned::to_owned);
        Ok(Self { name: name.to_owned(), registry: registry.to_owned(), tag, digest })
    }

    /// True for the engine's own id of an image, which no registry knows.
    pub fn is_image_id(text: &str) -> bool {
        is_digest(text) || is_hex(text)
    }

    /// The same name, for exactly the bits of `digest`.
    pub fn with_digest(self, digest: &str) -> Result<Self, BadReference> {
        if !is_digest(digest) {
            let problem = "its digest is not sha256: and 64 hexadecimal digits";
            return Err(BadReference { text: format!("{self}@{digest}"), problem });
        }
        Ok(Self { digest: Some(digest.to_owned()), ..self })
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// What the image's digest must be, if that is fixed.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The name for the engine's API. By digest if there is one; never without a tag, which would mean
    /// all tags.
    pub fn exact(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}@{digest}", self.name),
            None => self.tagged(),
        }
    }

    pub fn tagged(&self) -> String {
        format!("{}:{}", self.name, self.tag())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// Under which name `docker login` keeps the registry's credentials.
    pub fn credentials_key(&self) -> &str {
        if self.registry == HUB { "https://index.docker.io/v1/" } else { &self.registry }
    }

    /// True if `name`, as the engine shortens it, is this one's.
    pub fn is_named(&self, name: &str) -> bool {
        canonical(name) == canonical(&self.name)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.tag, &self.digest) {
            (Some(tag), Some(digest)) => write!(f, "{}:{tag}@{digest}", self.name),
            (None, Some(digest)) => write!(f, "{}@{digest}", self.name),
            (_, None) => f.write_str(&self.tagged()),
        }
    }
}

/// Without what may be left out on Docker's own registry.
fn canonical(name: &str) -> &str {
    let name = name.strip_prefix("index.docker.io/").or(name.strip_prefix("docker.io/")).unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.len() == HEX_DIGITS && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        for (text, registry, exact) in [
            ("busybox", "docker.io", "busybox:latest".to_owned()),
            ("a/b:1.0_x", "docker.io", "a/b:1.0_x".to_owned()),
            ("localhost/a", "localhost", "localhost/a:latest".to_owned()),
            ("host:5000/a/b", "host:5000", "host:5000/a/b:latest".to_owned()),
            ("ghcr.io/a/b:2", "ghcr.io", "ghcr.io/a/b:2".to_owned()),
            (&format!("h.io/a:1@{digest}"), "h.io", format!("h.io/a@{digest}")),
        ] {
            let reference = read(text);
            assert_eq!((reference.registry(), reference.exact()), (registry, exact), "{text}");
        }
        assert_eq!(read("x").with_digest(&digest).unwrap().exact(), format!("x@{digest}"));
        assert_eq!(read("x").with_digest(&digest).unwrap().tagged(), "x:latest");
        assert_eq!(read("a/b").credentials_key(), "https://index.docker.io/v1/");
        assert_eq!(read("h:1/b").credentials_key(), "h:1");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_rule() {
        for bad in ["", "Upper/x", "a b", "a:", "a:-x", "a//b", "-a", "a@sha256:12", "h:5000/", "a/_b", "x@y"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        assert!(read("x").with_digest("sha256:1").is_err());
    }

    #[test]
    fn an_engine_s_short_name_is_the_same_image() {
        assert!(read("docker.io/library/busybox").is_named("busybox"));
        assert!(read("index.docker.io/a/b").is_named("a/b"));
        assert!(!read("h.io/a/b").is_named("a/b"));
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        let hex = "0f".repeat(32);
        assert!(Reference::is_image_id(&hex) && Reference::is_image_id(&format!("sha256:{hex}")));
        assert!(!Reference::is_image_id("busybox") && !Reference::is_image_id(&hex[..12]));
    }
}
