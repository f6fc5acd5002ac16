//! The coordinator over its public API, with scripted agents.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod agent;
mod artifacts;
mod checkpoints;
mod cluster;
mod content;
mod coordinator;
mod crash;
mod crash_files;
mod files;
mod jobs;
mod sessions;
mod shared;
mod telemetry;
mod tunnels;
mod unique_ids;
