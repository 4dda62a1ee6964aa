fn main() {
    std::process::exit(sloth_runner::main_with(std::env::args_os()));
}
