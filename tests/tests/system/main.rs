//! The whole system's stories: real processes on loopback, a module per story.

mod agent_restarts;
mod bad_starts;
mod both_restart;
mod cli;
mod comes_back;
mod coordinator_restarts;
mod desired_states;
mod discovery;
mod failures;
mod gang;
mod gpus;
mod interrupts;
mod lines;
mod lost_nodes;
mod meetings;
mod names;
mod protocol;
mod queue;
mod ships;
mod stops;
mod submits;
mod uploads;
