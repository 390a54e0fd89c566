//! The elph-server program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider for everything in the process. An error means that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    elph_server::cli::main()
}
