//! What a program says on its standard streams, with sysexits(3)'s codes.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Writes to standard output. A closed pipe (`| head`) is no failure of ours.
pub fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(74),
        _ => ExitCode::SUCCESS,
    }
}

/// Writes a line to standard error. The code, to end with.
pub fn complain(text: &str, code: u8) -> ExitCode {
    complained(text, ExitCode::from(code))
}

/// As `complain`.
pub fn complained(text: &str, code: ExitCode) -> ExitCode {
    say(text);
    code
}

/// Writes a line to standard error: progress, or what is wrong.
pub fn say(text: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
