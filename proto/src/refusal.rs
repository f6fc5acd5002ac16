//! Refusals on the wire: a gRPC status whose `google.rpc.ErrorInfo` detail carries a stable reason.
//!
//! Programs match on the reason, people read the message; neither needs to parse the other.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every ErrorInfo that Convoke attaches.
pub const ERROR_DOMAIN: &str = "convoke.v1";

/// A status with a stable `reason` (UPPER_SNAKE_CASE) and a message for people.
pub fn refusal(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, [] as [(String, String); 0]);
    Status::with_error_details(code, message, details)
}

/// The stable reason of a status that Convoke made; `None` for any other.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then_some(info.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire_and_a_foreign_status_has_none() {
        let status = refusal(Code::AlreadyExists, "NAME_TAKEN", "job \"a\" is running");
        assert_eq!(reason(&status).as_deref(), Some("NAME_TAKEN"));
        assert_eq!(status.message(), "job \"a\" is running");
        assert_eq!(reason(&Status::internal("x")), None);
    }
}
