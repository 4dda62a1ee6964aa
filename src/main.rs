fn main() {
    std::process::exit(sloth_agent::cli::run(std::env::args_os().skip(1), "sloth-agent"));
}
