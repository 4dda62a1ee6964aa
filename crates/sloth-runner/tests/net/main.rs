//! Real network faults: agents and masters on hosts of their own, with a network between them that does what the test
//! wants. Needs root, `ip` and `/dev/net/tun`. Each case prints what it measured. Most of a case is waiting, so many
//! run at once.
#![allow(clippy::disallowed_methods, reason = "real processes run on the real clock")]

#[path = "../fleet/mod.rs"]
#[allow(dead_code, reason = "shared with the other tests of fleets")]
mod fleet;

mod harness;
mod packet;
mod site;
mod space;
mod switch;
mod time;

mod boxes;
mod cable;
mod ends;
mod identities;
mod liars;
mod masters;
mod names;
mod pauses;
mod silence;
mod stores;

fn main() {
    harness::run(&[
        silence::CASES,
        ends::CASES,
        boxes::CASES,
        pauses::CASES,
        names::CASES,
        cable::CASES,
        stores::CASES,
        identities::CASES,
        masters::CASES,
        liars::CASES,
    ]);
}
