//! Sessions that reach into a running task: a command in it, its ports, its files.

mod channel;
mod copy;
mod exec;
mod land;
mod port;
mod staging;
mod terminal;

pub(crate) use copy::Copy;
pub(crate) use exec::{Exec, variable};
pub(crate) use port::Port;
