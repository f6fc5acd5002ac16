//! The wall clock, asked in one place.

use std::time::SystemTime;

use convoke_model::Timestamp;

/// The time now; the epoch itself on a host whose clock is before it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
