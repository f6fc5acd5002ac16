//! What NVIDIA's Xid errors mean for the GPU that had them.
//!
//! By the immediate actions in NVIDIA's catalogue ("Analyzing Xid Errors with the Xid Catalog", table of Xids for Ampere
//! and later, docs.nvidia.com/deploy/xid-errors). Most are the application's own (13, 31, 43, 45, 69): its failure says
//! so, and the GPU is as good as before. Rows of memory that were or are to be replaced (63, 94) are told by what NVML
//! says of the memory itself.

/// The catalogue says: reset the GPU (79: restart the host).
const FATAL: [u64; 14] = [46, 62, 64, 79, 95, 109, 110, 119, 120, 136, 140, 143, 156, 158];
/// It says: find out what the GPU, its power or its links have. 155 asks for a reset, and also comes with links that
/// were put to sleep.
const DOUBTFUL: [u64; 14] = [48, 54, 74, 92, 144, 145, 146, 147, 148, 149, 150, 154, 155, 157];

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

const UNTOLD: &str = "see NVIDIA's catalogue of Xid errors";

/// In a few words; the catalogue tells more.
pub(super) fn meaning(code: u64) -> &'static str {
    match code {
        46 => "the GPU stopped processing",
        48 => "a memory error of two bits",
        54 => "the GPU is slowed down: not all of its power is connected",
        62 => "a micro-controller of the GPU stopped",
        64 => "a row of memory could not be replaced",
        74 | 144..=150 | 155 => "an NVLink error",
        79 => "the GPU has fallen off the bus",
        92 => "many memory errors of one bit",
        95 => "a memory error that was not contained",
        109 => "switching between programs timed out",
        110 => "the GPU's security processor failed",
        119 | 120 => "the GPU's system processor failed",
        136 => "an NVLink did not come up",
        140 => "a memory error that was not recovered",
        143 => "the GPU could not be initialised",
        154 => "the driver asks for a recovery",
        156 => "a part of the GPU is to be retired",
        157 => "a part of the GPU could not be retired",
        158 => "the GPU did not answer the driver in time",
        _ => UNTOLD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_own_error_is_none_of_the_gpus_and_each_of_the_gpus_is_told_in_words() {
        for code in [8, 13, 31, 32, 43, 45, 69] {
            assert_eq!(gravity(code), Gravity::Harmless, "{code}");
        }
        for code in FATAL.into_iter().chain(DOUBTFUL) {
            assert!(meaning(code) != UNTOLD, "{code}");
        }
        assert!(FATAL.iter().all(|code| !DOUBTFUL.contains(code)));
    }
}
