//! What NVIDIA's Xid errors mean for the GPU that had them.
//!
//! Most are the application's own (13, 31, 43, 45, 69): its failure says so, and the GPU is as good as
//! before. The lists are those of NVIDIA's catalogue whose advice is to reset the GPU or to replace it.

/// After these it must not be used before a reset.
const FATAL: [u64; 9] = [46, 62, 64, 79, 95, 119, 120, 140, 143];
/// After these it may fail again: others are taken before it.
const DOUBTFUL: [u64; 7] = [48, 61, 63, 74, 92, 94, 154];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gravity {
    Harmless,
    Doubtful,
    Fatal,
}

pub(super) fn gravity(code: u64) -> Gravity {
    match code {
        code if FATAL.contains(&code) => Gravity::Fatal,
        code if DOUBTFUL.contains(&code) => Gravity::Doubtful,
        _ => Gravity::Harmless,
    }
}

/// In a few words; the catalogue tells more.
pub(super) fn meaning(code: u64) -> &'static str {
    match code {
        46 => "the GPU stopped processing",
        48 => "a memory error of two bits",
        61 | 62 => "a micro-controller of the GPU stopped",
        63 => "a row of memory is to be replaced",
        64 => "a row of memory could not be replaced",
        74 => "an NVLink error",
        79 => "the GPU has fallen off the bus",
        92 => "many memory errors of one bit",
        94 => "a memory error that was contained",
        95 => "a memory error that was not contained",
        119 | 120 => "the GPU's system processor failed",
        140 => "a memory error that was not recovered",
        143 => "the GPU could not be initialised",
        154 => "the driver asks for a recovery",
        _ => "see NVIDIA's catalogue of Xid errors",
    }
}
