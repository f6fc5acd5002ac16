//! One sentence per rule, each against the public handles of the core.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test that calls it")]

mod gang;
mod harness;
mod nodes;
#[path = "../support/mod.rs"]
mod support;
