//! A released protocol by its own file, not by the code that is generated today: a field that is moved or means
//! something else now does not move here.

use protox::prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value, prost::Message};
use std::path::Path;

/// What differs from run to run, so that only its presence is compared: what is drawn by lot (ids of processes, tokens,
/// keys), what the machine says of itself (names, addresses, memory), times, and sentences for people.
const VARY: [&str; 38] = [
    "Register.instance_id",
    "Register.spool_id",
    "Register.version",
    "Register.report_address",
    "Register.boot_id",
    "Register.time_unix_ms",
    "Register.will_wait_ms",
    "Register.host",
    "PastEvent.detail",
    "PastEvent.ago_ms",
    "PastEvent.duration_ms",
    "PastEvent.master",
    "NodeStatus.memory_total_kib",
    "NodeStatus.memory_available_kib",
    "NodeStatus.disk_total_kib",
    "NodeStatus.disk_free_kib",
    "NodeStatus.uptime_s",
    "NodeStatus.time_unix_ms",
    "CommandFinished.started_unix_ms",
    "CommandFinished.finished_unix_ms",
    "Outcome.reason",
    "Registered.master_name",
    "Registered.master_version",
    "Registered.time_unix_ms",
    "Registered.certificate_renew_in_ms",
    "Rejected.message",
    "Shutdown.reason",
    "Goodbye.reason",
    "Goodbye.retry_after_ms",
    "CheckReply.message",
    "CheckReply.master_name",
    "CheckReply.master_version",
    "CheckReply.time_unix_ms",
    "JoinRequest.public_key",
    "JoinRequest.proof",
    "JoinReply.certificate",
    "JoinReply.renew_in_ms",
    "JoinReply.expires_unix_ms",
];

/// What may be there or not: how the machine is loaded at that moment, which of an agent's beats an answer has overtaken,
/// and the token, which is masked in the recording.
const IGNORED: [&str; 3] = ["NodeStatus.load_1m_milli", "Heartbeat.last_ack", "JoinRequest.token"];

#[derive(Clone)]
pub struct Words(DescriptorPool);

impl Words {
    pub fn of(version: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/released");
        let files = protox::compile([format!("{version}.proto")], [folder]).expect("the released protocol compiles");
        Self(DescriptorPool::from_file_descriptor_set(files).expect("it is whole"))
    }

    /// What goes up or down in calls of this method.
    fn message_of(&self, method: &str, up: bool) -> MessageDescriptor {
        let service = self.0.get_service_by_name("agent.AgentRegistry").expect("it serves agents");
        let method = service.methods().find(|known| known.name() == method).expect("a method of that version");
        if up { method.input() } else { method.output() }
    }

    #[track_caller]
    pub fn read(&self, method: &str, up: bool, bytes: &[u8]) -> DynamicMessage {
        DynamicMessage::decode(self.message_of(method, up), bytes).expect("it can be read")
    }
}

/// One line of it, for people.
pub fn shown(message: &DynamicMessage) -> String {
    message.to_text_format()
}

/// What must be the same today. Fields that the released version does not know are left out: that is what it does.
pub fn compared(message: &DynamicMessage) -> String {
    let mut message = message.clone();
    mask(&mut message);
    shown(&message)
}

fn mask(message: &mut DynamicMessage) {
    let name = message.descriptor().name().to_owned();
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        let path = format!("{name}.{}", field.name());
        if IGNORED.contains(&path.as_str()) {
            message.clear_field(&field);
            continue;
        }
        let varies = VARY.contains(&path.as_str());
        match message.get_field_mut(&field) {
            Value::Message(inner) => mask(inner),
            Value::List(all) => {
                for inner in all.iter_mut().filter_map(Value::as_message_mut) {
                    mask(inner);
                }
            }
            Value::Bytes(bytes) if varies => {
                // Ids and points have a length; what is ASN.1 has not.
                let length = Some(bytes.len()).filter(|length| [16, 65].contains(length));
                *bytes = length.map_or("some".to_owned(), |length| format!("{length} bytes")).into();
            }
            Value::String(text) if varies => "some".clone_into(text),
            Value::U64(number) if varies => *number = 1,
            Value::U32(number) if varies => *number = 1,
            _ => assert!(!varies, "{path} is of a kind that is not masked"),
        }
    }
}

/// The message inside `kind`, by its name; nothing of a kind that this version does not know.
pub fn inside<'a>(message: &'a DynamicMessage, kind: &str) -> Option<&'a DynamicMessage> {
    let field = message.descriptor().get_field_by_name(kind)?;
    message.fields().find(|(set, _)| *set == field).and_then(|(_, value)| value.as_message())
}

pub fn number(message: &DynamicMessage, field: &str) -> u64 {
    message.get_field_by_name(field).expect("a field of that version").as_u64().expect("a number")
}

pub fn bytes(message: &DynamicMessage, field: &str) -> Vec<u8> {
    message.get_field_by_name(field).expect("a field of that version").as_bytes().expect("bytes").to_vec()
}

/// The message with other bytes or another text in one of its fields.
pub fn with(message: &DynamicMessage, field: &str, value: Value) -> DynamicMessage {
    let mut message = message.clone();
    message.set_field_by_name(field, value);
    message
}

pub fn encoded(message: &DynamicMessage) -> bytes::Bytes {
    message.encode_to_vec().into()
}
