//! Registry credentials: what `docker login` left on this node for the agent's user, helpers included.

use std::path::PathBuf;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::Reference;

/// A helper may ask a keyring or a cloud's metadata service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where credentials are.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Docker's `config.json`.
    config: Option<PathBuf>,
}

/// What there is for one registry.
#[derive(Debug, Clone, Default)]
pub(super) struct Login {
    pub(super) credentials: Option<DockerCredentials>,
    /// Why there is none, if that was not plain absence.
    pub(super) problem: Option<String>,
}

impl Login {
    /// For messages, in "the registry refuses …".
    pub(super) fn describe(&self) -> String {
        let user = self.credentials.as_ref().and_then(|c| c.username.as_deref());
        match (user, &self.credentials, &self.problem) {
            (Some(user), _, _) => format!("the user {user:?} that this node's docker login left"),
            (None, Some(_), _) => "the token that this node's docker login left".to_owned(),
            (None, None, Some(problem)) => format!("a pull without credentials ({problem})"),
            (None, None, None) => "a pull without credentials".to_owned(),
        }
    }
}

impl Credentials {
    /// From `$DOCKER_CONFIG` or `~/.docker` of the user that this process runs as.
    pub fn of_user() -> Self {
        let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        // Falls back to the user database: a service often has no HOME.
        let dir = dir.or_else(|| Some(std::env::home_dir()?.join(".docker")));
        Self { config: dir.map(|dir| dir.join("config.json")) }
    }

    /// From a file.
    pub fn in_file(config: PathBuf) -> Self {
        Self { config: Some(config) }
    }

    /// What may not be readable does not matter for a public image: the pull goes on without, and a
    /// refusal then tells of it.
    pub(super) async fn login(&self, reference: &Reference) -> Login {
        let Some(config) = self.config.clone() else { return Login::default() };
        let registry = reference.credentials_key().to_owned();
        let key = registry.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(config).ok()?;
            Some(docker_credential::get_credential_from_reader(std::io::BufReader::new(file), &key))
        });
        match tokio::time::timeout(HELPER_TIMEOUT, reading).await {
            Ok(Ok(Some(found))) => login(registry, found),
            Ok(Ok(None)) => Login::default(),
            Ok(Err(error)) => Login { problem: Some(error.to_string()), ..Login::default() },
            Err(_) => Login {
                problem: Some(
                    "the credential helper of docker's config.json did not answer in time".to_owned(),
                ),
                ..Login::default()
            },
        }
    }
}

fn login(registry: String, found: Result<DockerCredential, CredentialRetrievalError>) -> Login {
    let server = DockerCredentials { serveraddress: Some(registry), ..DockerCredentials::default() };
    let credentials = match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            DockerCredentials { username: Some(username), password: Some(password), ..server }
        }
        Ok(DockerCredential::IdentityToken(token)) => {
            DockerCredentials { identitytoken: Some(token), ..server }
        }
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            return Login::default();
        }
        // How Docker's helpers say that they have none.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => {
            return Login::default();
        }
        Err(error) => {
            let problem = format!("docker's config.json: {}", error.to_string().replace('\n', " "));
            return Login { credentials: None, problem: Some(problem) };
        }
    };
    Login { credentials: Some(credentials), problem: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(config: &str, image: &str) -> Login {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        Credentials::in_file(file).login(&Reference::parse(image).unwrap()).await
    }

    #[tokio::test]
    async fn a_login_is_found_for_its_registry_and_no_other() {
        // "me:a:b" and "hub:pw".
        let config = r#"{"auths": {"h.io:5000": {"auth": "bWU6YTpi"}, "https://index.docker.io/v1/": {"auth": "aHViOnB3"}}}"#;
        let own = of(config, "h.io:5000/a").await.credentials.unwrap();
        assert_eq!((own.username.as_deref(), own.password.as_deref()), (Some("me"), Some("a:b")));
        let hub = of(config, "pytorch/pytorch").await.credentials.unwrap();
        assert_eq!((hub.username.as_deref(), hub.password.as_deref()), (Some("hub"), Some("pw")));
        let other = of(config, "other.io/a").await;
        assert!(other.credentials.is_none() && other.problem.is_none());
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_told_only_where_the_registry_refuses() {
        let login = of(r#"{"credsStore": "convoke-no-such-helper"}"#, "h.io/a").await;
        assert!(login.credentials.is_none());
        assert!(login.describe().contains("Unable to communicate"), "{}", login.describe());
        assert!(of("{", "h.io/a").await.describe().contains("config.json"));
    }

    #[tokio::test]
    async fn without_a_config_there_are_no_credentials() {
        let nowhere = Credentials::in_file("/nonexistent/config.json".into());
        let login = nowhere.login(&Reference::parse("a").unwrap()).await;
        assert!(login.credentials.is_none() && login.problem.is_none());
    }
}
