//! What beats cost on the wire, in protobuf: an agent sends one every few seconds for years.

use prost::Message;
use proto::{AgentMessage, Heartbeat, HeartbeatAck, MasterMessage, agent_message, master_message};

fn beat(n: u64) -> usize {
    let beat = Heartbeat { seq: n, last_ack: n, ready: true, status: None };
    AgentMessage { kind: Some(agent_message::Kind::Heartbeat(beat)) }.encoded_len()
}

#[test]
fn a_heartbeat_and_its_acknowledgement_stay_small_whatever_their_numbers() {
    // A day of beats, and more than there will ever be.
    assert!(beat(17_280) <= 12, "{}", beat(17_280));
    assert!(beat(u64::MAX) <= 30, "{}", beat(u64::MAX));
    let ack = HeartbeatAck { seq: u64::MAX, interval_ms: u64::MAX };
    let ack = MasterMessage { kind: Some(master_message::Kind::HeartbeatAck(ack)) }.encoded_len();
    assert!(ack <= 30, "{ack}");
}
