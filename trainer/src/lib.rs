//! Trainer SDK.
