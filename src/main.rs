//! The binary: everything is in `stockd::cli`.

fn main() -> std::process::ExitCode {
    stockd::cli::main()
}
