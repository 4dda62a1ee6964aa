//! The wire protocol: code generated from `proto/`, checked in, and the conversions to the pure crates' words.

#[allow(clippy::all, missing_docs)]
pub mod agent {
    include!("generated/agent.rs");
}

#[cfg(any(feature = "health", feature = "health-client"))]
#[allow(clippy::all, missing_docs)]
pub mod health {
    include!("generated/grpc.health.v1.rs");
}

mod codec;
mod convert;

pub use agent::*;
pub use codec::SmallCodec;
pub use convert::*;
