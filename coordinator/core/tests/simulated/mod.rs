//! A cluster without a network, a clock or processes.

mod agent;
mod calm;
mod checks;
mod dice;
mod faults;
mod world;

pub(crate) use world::World;
