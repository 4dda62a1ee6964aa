//! `sloth-runner context …`.

use crate::tool::check_context_name;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Keep a master (--master), its CA (--ca, if the token's is not meant) and a token, read from standard input; or a
    /// certificate (--cert, --key and --ca)
    ///
    /// The first one is used from then on, where neither flags nor environment say which master.
    Add {
        /// How to call it
        #[arg(value_parser = check_context_name)]
        name: String,
        /// Read the token from this file instead of standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// List contexts; their tokens by id alone
    List,
    /// Use this one from now on
    Use { name: String },
    /// Forget one, with its token; the token stays good (`token revoke` ends it)
    Remove { name: String },
}
