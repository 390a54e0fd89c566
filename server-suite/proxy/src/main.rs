//! The elph-proxy program.

use std::process::ExitCode;

fn main() -> ExitCode {
    elph_proxy::cli::main()
}
