//! Holds `proto/agent.proto` to what was released: whatever a released agent, master or tool says or hears keeps its
//! name, number, type and place. Only additions pass. `proto/released/VERSION.proto` is the file as it was released.

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

fn read(folder: &Path, file: &str) -> DescriptorPool {
    let files = protox::compile([file], [folder]).unwrap_or_else(|error| panic!("{file}: {error}"));
    DescriptorPool::from_file_descriptor_set(files).expect("it is whole")
}

/// What breaks whoever was built from the released file.
fn broken(released: &DescriptorPool, now: &DescriptorPool) -> Vec<String> {
    let mut broken = Vec::new();
    for message in released.all_messages() {
        match now.get_message_by_name(message.full_name()) {
            None => broken.push(format!("message {} is gone", message.full_name())),
            Some(known) => fields(&message, &known, &mut broken),
        }
    }
    for kinds in released.all_enums() {
        match now.get_enum_by_name(kinds.full_name()) {
            None => broken.push(format!("enum {} is gone", kinds.full_name())),
            Some(known) => values(&kinds, &known, &mut broken),
        }
    }
    for service in released.services() {
        for method in service.methods() {
            let known = now.get_service_by_name(service.full_name());
            let known = known.and_then(|known| known.methods().find(|known| known.name() == method.name()));
            let shape = |method: &protox::prost_reflect::MethodDescriptor| {
                let (input, output) = (method.input().full_name().to_owned(), method.output().full_name().to_owned());
                (input, method.is_client_streaming(), output, method.is_server_streaming())
            };
            if known.as_ref().map(shape) != Some(shape(&method)) {
                broken.push(format!("call {} is another, or gone", method.full_name()));
            }
        }
    }
    broken
}

fn fields(released: &MessageDescriptor, now: &MessageDescriptor, broken: &mut Vec<String>) {
    for field in released.fields() {
        let now = now.get_field(field.number());
        if now.as_ref().map(shape) != Some(shape(&field)) {
            let now = now.as_ref().map_or("nothing".to_owned(), shape);
            broken.push(format!("number {} of {} was {}, is {now}", field.number(), released.name(), shape(&field)));
        }
    }
}

fn shape(field: &FieldDescriptor) -> String {
    let oneof = field.containing_oneof().map_or(String::new(), |oneof| format!(" in {}", oneof.name()));
    format!("{:?} {:?} {}{oneof}", field.cardinality(), field.kind(), field.name())
}

fn values(released: &EnumDescriptor, now: &EnumDescriptor, broken: &mut Vec<String>) {
    for value in released.values() {
        let now = now.get_value(value.number()).map(|now| now.name().to_owned());
        if now.as_deref() != Some(value.name()) {
            broken.push(format!("{} = {} of {} is {now:?}", value.name(), value.number(), released.full_name()));
        }
    }
}

#[test]
fn nothing_that_was_released_is_changed_or_used_for_anything_else() {
    let now = read(&protos(), "agent.proto");
    let released: BTreeSet<_> = fs::read_dir(protos().join("released"))
        .unwrap()
        .flatten()
        .collect::<Vec<_>>()
        .iter()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(!released.is_empty());
    for file in released {
        let broken = broken(&read(&protos().join("released"), &file), &now);
        assert!(broken.is_empty(), "against {file}:\n{}", broken.join("\n"));
    }
}

#[test]
fn every_way_to_break_it_is_found_and_additions_are_not() {
    let whole = fs::read_to_string(protos().join("agent.proto")).unwrap();
    let released = read(&protos(), "agent.proto");
    let folder = std::env::temp_dir().join(format!("sloth-released-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let with = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from:?} is not in agent.proto");
        fs::write(folder.join("changed.proto"), whole.replacen(from, to, 1)).unwrap();
        broken(&released, &read(&folder, "changed.proto"))
    };
    let breaking = [
        // Another number, which leaves a gap; a number used for something else.
        ("bytes spool_id = 3;", "bytes spool_id = 33;"),
        ("bytes spool_id = 3;", "bytes disk_id = 3;"),
        // Another type, of the same encoding, too; one becomes many.
        ("uint64 highest_epoch = 4;", "sint64 highest_epoch = 4;"),
        ("uint64 seq = 1;", "uint32 seq = 1;"),
        ("repeated HeldCommand held = 15;", "HeldCommand held = 15;"),
        // Gone; out of its choice.
        ("string boot_id = 9;", ""),
        ("    ProbeAnswer probe_answer = 6;\n  }", "  }\n  ProbeAnswer probe_answer = 6;"),
        // A word of an enum; a call.
        ("SIGNALED = 2;", "SIGNALLED = 2;"),
        ("NAME_TAKEN = 3;", "NAME_TAKEN = 9;"),
        ("rpc Check(CheckRequest) returns (CheckReply);", ""),
        ("rpc Logs(LogsRequest) returns (stream RunReply);", "rpc Logs(LogsRequest) returns (RunReply);"),
    ];
    for (from, to) in breaking {
        assert_eq!(with(from, to).len(), 1, "{from:?} becomes {to:?}");
    }
    let added = [
        ("bytes spool_id = 3;", "bytes spool_id = 3;\n  bytes disk_id = 99;"),
        ("ProbeAnswer probe_answer = 6;", "ProbeAnswer probe_answer = 6;\n    Probe ping = 99;"),
        ("NAME_TAKEN = 3;", "NAME_TAKEN = 3;\n    TOO_OLD = 99;"),
        (
            "rpc Check(CheckRequest) returns (CheckReply);",
            "rpc Check(CheckRequest) returns (CheckReply);\n  rpc Look(CheckRequest) returns (CheckReply);",
        ),
    ];
    for (from, to) in added {
        assert_eq!(with(from, to), Vec::<String>::new(), "{to:?}");
    }
    fs::remove_dir_all(&folder).unwrap();
}
