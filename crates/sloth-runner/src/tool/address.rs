//! Where the master is.

pub use sloth_agent::config::MasterAddress as Address;

/// Names the master when `--master` does not.
pub const VARIABLE: &str = "SLOTH_RUNNER_MASTER_ADDR";

const DEFAULT: &str = "localhost:50050";

/// `--master`, else the variable, else `localhost:50050`. An empty variable counts as none.
///
/// # Errors
/// What is wrong and where it was written, for people.
pub fn choose(flag: Option<&str>, variable: Option<&str>) -> Result<Address, String> {
    match (flag, variable.filter(|text| !text.is_empty())) {
        (Some(text), _) => Address::parse(text).map_err(|why| format!("--master is {text:?}, {why}")),
        (None, Some(text)) => Address::parse(text).map_err(|why| format!("{VARIABLE} is {text:?}, {why}")),
        (None, None) => Ok(Address::parse(DEFAULT).expect("a good address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_variable_and_errors_name_their_place() {
        assert_eq!(choose(Some("a"), Some("b")).unwrap().host, "a");
        assert_eq!(choose(None, Some("b:1")).unwrap().to_string(), "b:1");
        assert_eq!(choose(None, Some("")).unwrap().to_string(), "localhost:50050");
        assert_eq!(
            choose(None, Some("b:x")).unwrap_err(),
            "SLOTH_RUNNER_MASTER_ADDR is \"b:x\", with \"x\", which is not a port: use 1 to 65535"
        );
    }
}
