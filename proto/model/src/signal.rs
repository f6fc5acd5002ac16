//! Signals by name and number, as Linux has them.

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by name, with or without `SIG`, or by number.
pub fn signal_number(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    // The C library keeps 32 and 33 for itself, so SIGRTMIN is 34.
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    let index = SIGNALS.iter().position(|signal| *signal == name)?;
    i32::try_from(index + 1).ok()
}

/// A signal's name where it has one, else its number.
pub fn signal_text(number: i32) -> String {
    let index = usize::try_from(number - 1).ok();
    match index.and_then(|i| SIGNALS.get(i)) {
        Some(name) => format!("SIG{name}"),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, number) in [("SIGTERM", 15), ("usr1", 10), ("9", 9), ("SIGRTMIN+3", 37), ("SIGSYS", 31)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "SIGFOO", "RTMIN+99"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_survives_its_own_text() {
        for number in 1..=64 {
            assert_eq!(signal_number(&signal_text(number)), Some(number));
        }
    }
}
