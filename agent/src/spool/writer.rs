//! The writing side.

/// Writes a spool; one at a time.
pub struct Writer {}
