//! Wire messages as JSON for `--output json`: field names as in the proto, every field present,
//! enums as their lower-case names without prefix, bytes in hexadecimal.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value as Proto,
};
use serde_json::{Map, Value};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(convoke_proto::FILE_DESCRIPTOR_SET).expect("the build made the descriptor set")
});

/// `message` as JSON; `name` is its message name in package `convoke.v1`.
pub(crate) fn json(name: &str, message: &impl Message) -> Value {
    let descriptor =
        POOL.get_message_by_name(&format!("convoke.v1.{name}")).expect("callers name messages of the proto");
    let decoded = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes from its own encoding");
    object(&decoded)
}

fn object(message: &DynamicMessage) -> Value {
    let mut map = Map::new();
    for field in message.descriptor().fields() {
        let given = message.has_field(&field);
        // A member of a oneof is there or is not; its siblings say nothing.
        let in_oneof = field.containing_oneof().is_some_and(|o| !o.is_synthetic());
        if in_oneof && !given {
            continue;
        }
        let value = if field.supports_presence() && !given {
            Value::Null
        } else {
            convert(&field, &message.get_field(&field))
        };
        map.insert(field.name().to_owned(), value);
    }
    Value::Object(map)
}

fn convert(field: &FieldDescriptor, value: &Proto) -> Value {
    match value {
        Proto::Bool(v) => Value::from(*v),
        Proto::I32(v) => Value::from(*v),
        Proto::I64(v) => Value::from(*v),
        Proto::U32(v) => Value::from(*v),
        Proto::U64(v) => Value::from(*v),
        Proto::F32(v) => number(f64::from(*v)),
        Proto::F64(v) => number(*v),
        Proto::String(v) => Value::from(v.as_str()),
        Proto::Bytes(v) => Value::from(hex::encode(v)),
        Proto::EnumNumber(v) => name_of(field, *v),
        Proto::Message(v) => object(v),
        Proto::List(items) => items.iter().map(|item| convert(field, item)).collect(),
        Proto::Map(entries) => {
            let value_field = map_value_field(field);
            let mut sorted: Vec<_> = entries.iter().map(|(key, value)| (key_of(key), value)).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let pair = |(key, value)| (key, convert(&value_field, value));
            Value::Object(sorted.into_iter().map(pair).collect())
        }
    }
}

/// JSON has no NaN and no infinity; a diverged loss is a string rather than a lie.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number)
}

/// `JOB_STATE_RUNNING` → `running`: the enum's own name is the prefix.
fn name_of(field: &FieldDescriptor, number: i32) -> Value {
    let Kind::Enum(descriptor) = field.kind() else { return Value::from(number) };
    let Some(value) = descriptor.get_value(number) else { return Value::from(number) };
    let mut prefix = String::new();
    for c in descriptor.name().chars() {
        if c.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    let short = value.name().strip_prefix(&prefix).map_or(value.name(), |rest| rest.trim_start_matches('_'));
    Value::from(short.to_ascii_lowercase())
}

fn map_value_field(field: &FieldDescriptor) -> FieldDescriptor {
    match field.kind() {
        Kind::Message(entry) => entry.map_entry_value_field(),
        _ => field.clone(),
    }
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_proto::v1;

    #[test]
    fn field_names_are_the_protos_and_enums_lose_their_prefix() {
        let checkpoint = v1::Checkpoint {
            reference: Some(v1::CheckpointRef { job_id: "j".into(), generation: 1, step: 63 }),
            state: v1::CheckpointState::Complete.into(),
            shards: vec![v1::Shard {
                rank: 0,
                files: vec![v1::ShardFile { path: "a".into(), size: 3, sha256: vec![0xab, 1].into() }],
            }],
            bytes: 3,
            ..Default::default()
        };
        let value = json("Checkpoint", &checkpoint);
        assert_eq!(value["state"], "complete");
        assert_eq!(value["reference"]["job_id"], "j");
        assert_eq!(value["shards"][0]["files"][0]["sha256"], "ab01");
        assert_eq!(value["created_unix_ms"], 0);
    }

    #[test]
    fn an_absent_optional_is_null_and_an_unset_oneof_member_is_left_out() {
        let exit = v1::TaskExit { status: Some(v1::task_exit::Status::Code(3)), ..Default::default() };
        let value = json("TaskExit", &exit);
        assert_eq!(value["code"], 3);
        assert!(value.get("signal").is_none());
        assert_eq!(json("Job", &v1::Job::default())["finished_unix_ms"], Value::Null);
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_still_json() {
        let record = v1::MetricRecord { values: [("loss".into(), f64::NAN)].into(), ..Default::default() };
        assert_eq!(json("MetricRecord", &record)["values"]["loss"], "NaN");
    }
}
