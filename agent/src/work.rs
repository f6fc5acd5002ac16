//! What workers do to one replica: each verb is one future, bounded, with a result for the router.

mod explain;
mod hosts;
mod image;
mod inside;
mod names;
mod network;
mod paths;
mod prepare;
mod remove;
mod start;
mod stop;

pub use explain::{Ended, explain};
pub use image::keep_tidy as keep_images_tidy;
pub use network::data as data_address;
pub use paths::{Inside, NamedDir, Place, TaskPaths, checkpoints};
pub use prepare::{Prepared, Refusal, prepare};
pub use remove::{about, remove};
pub use start::{Start, start};
pub use stop::stop;

/// The error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some errors print their source themselves.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
