//! Whether the replicas of a gang reach each other: before the start, by connecting; after it, by
//! watching whether anybody came.
//!
//! A replica that is prepared listens ([`ProbeListener`]) on its data address until it is removed.
//! When the gang is released, each agent connects from its own data address to every other node's
//! listener ([`reach`]) and starts its tasks only if all answered; a pair that does not is named,
//! with what a firewall, a route or a wrong interface would look like. So a gang never hangs in its
//! rendezvous for a network that could not have worked. Once the tasks run, the agent of node rank 0
//! looks whether the rendezvous took place at all ([`watch_meeting`]).

mod listen;
mod meeting;
mod reach;

pub use listen::ProbeListener;
pub use meeting::watch_meeting;
pub use reach::{Unreachable, reach};

use convoke_model::ReplicaKey;

/// The longest line that either side sends: an identifier has at most 128 bytes.
const MAX_LINE: u64 = 512;

/// What a prober says, and the listener of the same generation knows.
fn greeting(key: &ReplicaKey) -> String {
    format!("convoke-probe {} {}", key.job, key.generation)
}
