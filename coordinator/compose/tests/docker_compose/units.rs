//! Sizes, durations and signals as docker-compose prints them, read without Convoke's own reader.

/// `16g` and the like in bytes.
pub(crate) fn bytes(text: &str) -> u64 {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit.to_ascii_lowercase().trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        other => panic!("a size in {other}"),
    };
    match number.parse::<u64>() {
        Ok(whole) => whole * unit,
        Err(_) => panic!("a size of {number}"),
    }
}

/// `1m30s` and the like in milliseconds.
pub(crate) fn millis(text: &str) -> String {
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).expect("a unit");
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            other => panic!("a duration in {other}"),
        };
        millis += number.parse::<f64>().expect("a number") * unit;
        rest = after;
    }
    millis.to_string()
}

/// A signal's number, of those that the corpus names.
pub(crate) fn signal(text: &str) -> String {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let names = [("INT", "2"), ("KILL", "9"), ("USR1", "10"), ("TERM", "15")];
    names.iter().find(|(n, _)| *n == name).map_or(name, |(_, number)| number).to_owned()
}
