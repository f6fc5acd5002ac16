//! The coordinator over its public API, with scripted agents.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod agent;
mod checkpoints;
mod cluster;
mod coordinator;
mod crash;
mod files;
mod jobs;
mod sessions;
mod telemetry;
mod unique_ids;
