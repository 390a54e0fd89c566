//! The status socket: which configuration answers, and `stub_status` (ngx_http_stub_status_module).

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const LONGEST: u64 = 8 << 10;

/// nginx's own counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the count of its name")]
pub struct Counts {
    pub active: u64,
    pub accepted: u64,
    pub handled: u64,
    pub requests: u64,
    pub reading: u64,
    pub writing: u64,
    pub waiting: u64,
}

/// The generation of the configuration that answers.
pub async fn generation(socket: &Path) -> Option<u64> {
    ask(socket, "/generation").await?.trim().parse().ok()
}

/// nginx's own counts.
pub async fn counts(socket: &Path) -> Option<Counts> {
    Counts::parse(&ask(socket, "/status").await?)
}

async fn ask(socket: &Path, path: &str) -> Option<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.take(LONGEST).read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
    };
    timeout(DEADLINE, asked).await.ok().flatten()
}

impl Counts {
    /// Reads the text of `stub_status`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next();
        Some(Self {
            active: next()?,
            accepted: next()?,
            handled: next()?,
            requests: next()?,
            reading: next()?,
            writing: next()?,
            waiting: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stub_status_is_read() {
        let text = "Active connections: 291 \nserver accepts handled requests\n 16630948 16630947 31070465 \nReading: 6 Writing: 179 Waiting: 106 \n";
        let counts = Counts::parse(text).unwrap();
        assert_eq!(
            counts,
            Counts { active: 291, accepted: 16_630_948, handled: 16_630_947, requests: 31_070_465, reading: 6, writing: 179, waiting: 106 }
        );
        assert_eq!(Counts::parse("nothing"), None);
    }
}
