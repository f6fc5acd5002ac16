//! Compose files in, job specs out.
//!
//! The way of a file: [`files`](Files) read → YAML tree with places → variables filled in →
//! `extends` and several `-f` files merged → each service read into a [`JobSpec`]. Every stage adds
//! to one report, so that a user sees all problems of a file at once, each with its line; a key
//! that would silently mean nothing is refused. Only [`Files`] touches the outside.
//!
//! [`JobSpec`]: convoke_model::JobSpec

mod conflicts;
mod cursor;
mod emit;
mod envfile;
mod extends;
mod files;
mod interpolate;
mod merge;
mod name;
mod networks;
mod place;
mod project;
mod reach;
mod report;
mod service;
mod sharing;
mod toplevel;
mod tree;
mod units;
mod yaml;

pub use files::{Disk, Files};
pub use place::KeyPlace;
pub use project::{LoadOptions, Project};
pub use report::{ComposeErrors, Note, Place, Problem};
pub use sharing::awaited;
pub use units::bytes;
