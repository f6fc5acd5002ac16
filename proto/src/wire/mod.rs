//! Conversions between wire messages and the model's strict values.
//!
//! Towards the wire nothing can fail. From the wire everything is checked once, here: what comes out
//! is valid, and what does not says which field was missing or wrong.

mod checkpoint;
mod desired;
mod event;
mod job;
mod node;
mod observed;
mod placement;
mod spec;
mod spec_container;

use std::net::IpAddr;

use convoke_model::InvalidId;

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

fn port(value: u32, field: &'static str) -> Result<u16, InvalidMessage> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(invalid(field, format!("{value} is not a port number"))),
    }
}

fn address(value: &str, field: &'static str) -> Result<IpAddr, InvalidMessage> {
    value.parse().map_err(|_| invalid(field, format!("{value:?} is not an IP address")))
}
