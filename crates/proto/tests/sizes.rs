//! What beats cost on the wire, in protobuf: an agent sends one every few seconds for years.

use prost::Message;
use proto::{AgentMessage, Heartbeat, HeartbeatAck, MasterMessage, NodeStatus, agent_message, master_message};

fn beat(n: u64) -> usize {
    let beat = Heartbeat { seq: n, last_ack: n, ready: true, status: None };
    AgentMessage { kind: Some(agent_message::Kind::Heartbeat(beat)) }.encoded_len()
}

#[test]
fn a_heartbeat_and_its_acknowledgement_stay_small_whatever_their_numbers() {
    // A day of beats, and more than there will ever be.
    assert!(beat(17_280) <= 12, "{}", beat(17_280));
    assert!(beat(u64::MAX) <= 30, "{}", beat(u64::MAX));
    // Every twelfth says how the node does: a terabyte of disk and memory, a year's uptime.
    let (kib, time_unix_ms) = (1 << 30, 1_800_000_000_000);
    let status = NodeStatus {
        load_1m_milli: 99_000,
        memory_total_kib: kib,
        memory_available_kib: kib,
        disk_total_kib: kib,
        disk_free_kib: kib,
        uptime_s: 31_536_000,
        commands_held: 10_000,
        time_unix_ms,
        in_memory: true,
    };
    let beat = Heartbeat { seq: u64::MAX, last_ack: u64::MAX, ready: true, status: Some(status) };
    let beat = AgentMessage { kind: Some(agent_message::Kind::Heartbeat(beat)) }.encoded_len();
    assert!(beat <= 90, "{beat}");
    let ack = HeartbeatAck { seq: u64::MAX, interval_ms: u64::MAX };
    let ack = MasterMessage { kind: Some(master_message::Kind::HeartbeatAck(ack)) }.encoded_len();
    assert!(ack <= 30, "{ack}");
}
