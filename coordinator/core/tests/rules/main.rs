//! One sentence per rule, each against the public handles of the core.
#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test that calls it")]

mod blame;
mod checkpoints;
mod depends;
mod gang;
mod harness;
mod nodes;
mod place;
mod project;
mod queue;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod views;
