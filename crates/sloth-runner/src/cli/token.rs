//! `sloth-runner token …`.

use super::values::key_value;
use crate::tool::duration;
use clap::{Subcommand, ValueEnum, ValueHint};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it: it is shown this once. Its id, to list and revoke it by, is said on standard error
    Create {
        /// What it is for
        #[arg(long, value_enum, default_value_t = TokenRole::Agent)]
        role: TokenRole,
        /// How long it is good (30m, 24h) [default: an agent's 24h, others until they are revoked]
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        ttl: Option<Duration>,
        /// How many agents may join with it [default: any number]
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// Of an agent: it must have this name, and may take it over; else: whom the token is for
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Give agents that join with it this label
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
        /// Write it to this file instead, which nobody else can read, and which is not there yet
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// List tokens, newest first; their secrets are kept nowhere
    List,
    /// Let nobody in with it any more; agents that have joined stay (`agent delete` ends them)
    Revoke {
        /// As `token list` shows it
        id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// Lets agents join
    Agent,
    /// May do everything that this tool does
    Operator,
    /// May only look
    Viewer,
}

impl TokenRole {
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}
