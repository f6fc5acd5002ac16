//! Durations, sizes and CPU shares as Compose writes them.

use std::time::Duration;

/// `1h5m30s20ms`, as Go and Compose write it: numbers, each with a unit; `0` alone is zero.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    if text.is_empty() {
        return None;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    // A hundred years; a longer one is a mistake, and sums of deadlines stay far from overflow.
    let nanos = u32::try_from(nanos % 1_000_000_000).ok()?;
    (seconds <= 3_155_760_000).then(|| Duration::new(seconds, nanos))
}

/// A decimal number times a unit, exactly; digits below the unit's resolution are dropped.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // 18 digits times the largest unit fit into 128 bits.
    let fraction = &fraction[..fraction.len().min(18)];
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let below = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(part.checked_mul(unit)? / below)
}

/// A duration back in Compose's words.
pub(crate) fn duration_text(duration: Duration) -> String {
    let seconds = match duration.as_secs() {
        0 if duration.subsec_nanos() != 0 => String::new(),
        seconds => format!("{seconds}s"),
    };
    match duration.subsec_nanos() {
        0 => seconds,
        nanos if nanos % 1_000_000 == 0 => format!("{seconds}{}ms", nanos / 1_000_000),
        nanos => format!("{seconds}{nanos}ns"),
    }
}

/// A size in bytes as Compose and Docker write it: `512m`, `16gb`, `1.5g`, `1024`, in powers of 1024, whatever the
/// case of the letters.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u128 = match unit.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        "p" | "pb" | "pi" | "pib" => 1 << 50,
        _ => return None,
    };
    // The ledger and the wire keep signed 64 bits within reach; 8 EiB is no size of memory.
    scaled(number, unit)?.try_into().ok().filter(|b: &u64| *b <= u64::MAX / 2)
}

/// `"0.5"` CPUs in thousandths.
pub(crate) fn milli_cpus(text: &str) -> Option<u64> {
    scaled(text.trim(), 1_000)?.try_into().ok().filter(|m| (1..=1_000_000_000).contains(m))
}

/// Thousandths of a CPU back in Compose's words.
pub(crate) fn cpus_text(milli: u64) -> String {
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_units_and_add_up() {
        for (text, millis) in [("1m30s", 90_000), ("1.5s", 1_500), ("0", 0), ("2h", 7_200_000), ("20ms", 20)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1x", "1m30", "1..5s", "99999999999h", "."] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [("16gb", 16 << 30), ("512M", 512 << 20), ("1.5k", 1536), ("64", 64)] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "gb", "1x", "-1", "99999p", "1 2"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_its_own_text(seconds in 0u64..1_000_000, nanos in 0u32..1_000_000_000) {
            let d = Duration::new(seconds, nanos);
            prop_assert_eq!(duration(&duration_text(d)), Some(d));
        }

        #[test]
        fn any_text_is_a_quantity_or_none(text in "\\PC{0,20}") {
            let _ = (duration(&text), bytes(&text), milli_cpus(&text), convoke_model::signal_number(&text));
        }

        #[test]
        fn cpus_survive_their_own_text(milli in 1u64..1_000_000) {
            prop_assert_eq!(milli_cpus(&cpus_text(milli)), Some(milli));
        }
    }
}
