//! Engines that cannot be used, each told apart. No Docker is needed: what answers is a socket here.

#![allow(clippy::unwrap_used, reason = "what cannot be made here is a failed test")]

use std::path::{Path, PathBuf};

use convoke_agent::engine::{Engine, EngineError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// Answers every request at `socket` with one body.
fn answer(socket: &Path, body: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    // A dial that only asked whether somebody is there.
                    Err(_) => break,
                }
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("docker.sock")
    }

    async fn connect(&self) -> Result<Engine, EngineError> {
        Engine::connect(&self.socket()).await
    }
}

#[tokio::test]
async fn an_engine_that_is_too_old_is_refused_with_what_to_install() {
    let place = Place::new();
    answer(&place.socket(), r#"{"Version": "19.03.15", "ApiVersion": "1.40"}"#);
    let error = place.connect().await.unwrap_err();
    assert!(matches!(error, EngineError::TooOld { .. }) && !error.is_away(), "{error}");
    let text = error.to_string();
    for word in ["19.03.15", "API 1.40", "API 1.41", "install Docker Engine 20.10"] {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[tokio::test]
async fn the_oldest_and_the_newest_api_are_taken() {
    for version in [r#"{"Version": "20.10.24", "ApiVersion": "1.41"}"#, r#"{"ApiVersion": "1.99"}"#] {
        let place = Place::new();
        answer(&place.socket(), version);
        place.connect().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_engine_is_told_from_one() {
    for body in ["hello", "{}", r#"{"ApiVersion": "two"}"#] {
        let place = Place::new();
        answer(&place.socket(), body);
        let error = place.connect().await.unwrap_err();
        assert!(matches!(error, EngineError::NotAnEngine { .. }), "{body}: {error}");
    }
}

#[tokio::test]
async fn a_socket_that_is_missing_is_told_from_one_that_nobody_listens_on() {
    let place = Place::new();
    let error = place.connect().await.unwrap_err();
    assert!(matches!(error, EngineError::Missing { .. }) && error.is_away(), "{error}");
    assert!(error.to_string().contains("--docker-socket"), "{error}");

    drop(UnixListener::bind(place.socket()).unwrap());
    let error = place.connect().await.unwrap_err();
    assert!(matches!(error, EngineError::NotRunning { .. }) && error.is_away(), "{error}");
    assert!(error.to_string().contains("start the Docker Engine"), "{error}");
}
