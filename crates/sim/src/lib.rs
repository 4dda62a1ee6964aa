//! A fleet in simulation: the real link, ledger, registry and dispatch, on a simulated network, disk and clock. Every
//! run follows from its seed, and can be repeated.

pub mod agent;
pub mod check;
pub mod faults;
pub mod master;
pub mod model;
pub mod net;
pub mod plot;
pub mod random;
pub mod run;
pub mod storm;
pub mod world;

/// What a simulated command does: everything follows from the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec(pub u64);

impl Spec {
    /// Of the command with this id: a number follows the letter.
    pub fn of(id: &str) -> Self {
        Self(id[1..].parse().expect("ids of commands are made here"))
    }
}
