//! How far a fetch is, over all layers.

use std::collections::BTreeMap;
use std::fmt;

use bollard::models::CreateImageInfo;
use bytesize::ByteSize;

/// Of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have come in.
    pub done: u64,
    /// Bytes of the layers whose size is known so far.
    pub total: u64,
    /// Layers that are in place.
    pub layers_done: u32,
    pub layers: u32,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, total, layers_done, layers } = self;
        write!(f, "{} of {}, ", ByteSize(*done).display().iec(), ByteSize(*total).display().iec())?;
        write!(f, "{layers_done} of {layers} layers in place")
    }
}

/// What a pull's messages say, layer by layer.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    done: u64,
    total: u64,
    complete: bool,
}

impl Layers {
    pub(super) fn update(&mut self, message: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&message.id, &message.status) else { return };
        // The tag's own line has an id as well.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        let detail = message.progress_detail.as_ref();
        match status.as_str() {
            "Downloading" => {
                layer.done = number(detail.and_then(|d| d.current));
                layer.total = number(detail.and_then(|d| d.total)).max(layer.done);
            }
            "Download complete" => layer.done = layer.total,
            // Small layers are never seen downloading.
            "Extracting" => {
                layer.total = layer.total.max(number(detail.and_then(|d| d.total)));
                layer.done = layer.total;
            }
            "Pull complete" | "Already exists" => {
                layer.done = layer.total;
                layer.complete = true;
            }
            _ => {}
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let layers = self.0.values();
        Progress {
            done: layers.clone().map(|layer| layer.done).sum(),
            total: layers.clone().map(|layer| layer.total).sum(),
            layers_done: count(layers.clone().filter(|layer| layer.complete).count()),
            layers: count(layers.count()),
        }
    }
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_a_pull_add_up() {
        let mut layers = Layers::default();
        // As Docker Engine 20.10 sends them.
        let messages = [
            r#"{"status":"Pulling from team/big","id":"1"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"aa"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"bb"}"#,
            r#"{"status":"Already exists","progressDetail":{},"id":"cc"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":500,"total":7000},"id":"aa"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":200,"total":2000},"id":"bb"}"#,
            r#"{"status":"Verifying Checksum","progressDetail":{},"id":"bb"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"bb"}"#,
            r#"{"status":"Extracting","progressDetail":{"current":100,"total":2000},"id":"bb"}"#,
            r#"{"status":"Pull complete","progressDetail":{},"id":"bb"}"#,
        ];
        let mut seen = Vec::new();
        for message in messages {
            layers.update(&serde_json::from_str(message).unwrap());
            let Progress { done, total, layers_done, layers } = layers.progress();
            seen.push((done, total, layers_done, layers));
        }
        assert_eq!(
            seen,
            [
                (0, 0, 0, 0),
                (0, 0, 0, 1),
                (0, 0, 0, 2),
                (0, 0, 1, 3),
                (500, 7000, 1, 3),
                (700, 9000, 1, 3),
                (700, 9000, 1, 3),
                (2500, 9000, 1, 3),
                (2500, 9000, 1, 3),
                (2500, 9000, 2, 3),
            ]
        );
        assert_eq!(layers.progress().to_string(), "2.4 KiB of 8.8 KiB, 2 of 3 layers in place");
    }
}
