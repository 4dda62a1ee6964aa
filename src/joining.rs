//! What an agent proves when it asks for a certificate: that the key is its own, on this very connection.

use crate::state::hex;

/// For [RFC 8446, section 7.5](https://www.rfc-editor.org/rfc/rfc8446#section-7.5): both ends of a TLS connection come
/// to the same 32 bytes, and nobody between two of them can.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-sloth-runner-join";

/// How long one end's exported bytes are.
pub type Exported = [u8; 32];

/// A point of P-256, uncompressed.
pub const PUBLIC_KEY_LEN: usize = 65;

/// What is signed with the key that is to be certified. A signature of another connection, agent or key is of no use.
pub fn statement(exported: &Exported, agent_id: &[u8], public_key: &[u8]) -> Vec<u8> {
    [b"sloth-runner join 1\0", &exported[..], agent_id, public_key].concat()
}

/// How an agent's certificate names it, as a URI.
pub fn agent_uri(agent_id: &[u8; 16]) -> String {
    format!("sloth:agent:{}", hex(agent_id))
}
