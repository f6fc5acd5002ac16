//! Conversions between wire messages and the model's strict values.
//!
//! Towards the wire nothing can fail. From the wire everything is checked once, here: what comes out
//! is valid, and what does not says which field was missing or wrong.

mod artifact;
mod checkpoint;
mod desired;
mod event;
mod explanation;
mod gpu;
mod job;
mod node;
mod observed;
mod placement;
mod spec;
mod spec_container;
mod tree;

use std::net::IpAddr;
use std::path::{Component, Path};

use convoke_model::{Digest, InvalidId};

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("field {field} is missing")]
    Missing { field: &'static str },
    #[error("field {field} is invalid: {problem}")]
    Invalid { field: &'static str, problem: String },
}

/// Something else than what `field` may hold.
fn invalid(field: &'static str, problem: impl ToString) -> InvalidMessage {
    InvalidMessage::Invalid { field, problem: problem.to_string() }
}

/// The value of a field that a peer must fill.
fn required<T>(value: Option<T>, field: &'static str) -> Result<T, InvalidMessage> {
    value.ok_or(InvalidMessage::Missing { field })
}

/// An identifier from text.
fn id<T: std::str::FromStr<Err = InvalidId>>(value: &str, field: &'static str) -> Result<T, InvalidMessage> {
    value.parse().map_err(|e| invalid(field, e))
}

/// An enum field; the zero value counts as missing.
fn choice<W: TryFrom<i32>, M>(
    value: i32,
    field: &'static str,
    to_model: impl FnOnce(W) -> Option<M>,
) -> Result<M, InvalidMessage> {
    let known = W::try_from(value).map_err(|_| invalid(field, format!("{value} is not a known value")))?;
    required(to_model(known), field)
}

/// Every item, or the first error.
fn all<W, M: TryFrom<W, Error = InvalidMessage>>(items: Vec<W>) -> Result<Vec<M>, InvalidMessage> {
    items.into_iter().map(M::try_from).collect()
}

/// The longest path that a file system takes, Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// A path that leads only downwards: no `..`, no `.`, not absolute, no empty part.
fn relative_path(path: &str, field: &'static str) -> Result<(), InvalidMessage> {
    let plain = path.split('/').all(|part| !part.is_empty() && part != ".")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || path.contains('\0') || path.len() > MAX_PATH {
        return Err(invalid(field, format!("{path:?} is not a plain relative path")));
    }
    Ok(())
}

fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, InvalidMessage> {
    let digest =
        bytes.try_into().map_err(|_| invalid(field, format!("has {} bytes, not 32", bytes.len())))?;
    Ok(Digest(digest))
}

fn port(value: u32, field: &'static str) -> Result<u16, InvalidMessage> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(invalid(field, format!("{value} is not a port number"))),
    }
}

/// 0 is none.
fn optional_port(value: u32, field: &'static str) -> Result<Option<u16>, InvalidMessage> {
    (value != 0).then(|| port(value, field)).transpose()
}

fn address(value: &str, field: &'static str) -> Result<IpAddr, InvalidMessage> {
    value.parse().map_err(|_| invalid(field, format!("{value:?} is not an IP address")))
}
