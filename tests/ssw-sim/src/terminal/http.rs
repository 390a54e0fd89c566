//! HTTP/1.1 by hand, so that every octet of an answer is at the faults' mercy.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head that is read.
const LONGEST_HEAD: usize = 16 * 1024;
/// Longest body that is read.
const LONGEST_BODY: usize = 1024 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

/// Why no request could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The client has closed the connection.
    Closed,
    /// It does not speak HTTP/1.1 as is needed here; answer with this status and close.
    Status(u16),
}

impl Request {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A cookie's value.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let pairs = self.headers.iter().filter(|(key, _)| key == "cookie").flat_map(|(_, value)| value.split(';'));
        pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Reads the next request; what was read beyond it stays in `buffer`.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<Request, Unreadable> {
    let head = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end;
        }
        if buffer.len() > LONGEST_HEAD {
            return Err(Unreadable::Status(431));
        }
        fill(stream, buffer).await?;
    };
    let mut rest = buffer.split_off(head + 4);
    let text = String::from_utf8(std::mem::take(buffer)).map_err(|_| Unreadable::Status(400))?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version)) = (first.next(), first.next(), first.next()) else {
        return Err(Unreadable::Status(400));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(Unreadable::Status(505));
    }
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(Ok(0), |(_, value)| value.parse::<usize>());
    let length = length.map_err(|_| Unreadable::Status(400))?;
    if headers.iter().any(|(name, _)| name == "transfer-encoding") {
        return Err(Unreadable::Status(411));
    }
    if length > LONGEST_BODY {
        return Err(Unreadable::Status(413));
    }
    while rest.len() < length {
        fill(stream, &mut rest).await?;
    }
    *buffer = rest.split_off(length);
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Ok(Request { method: method.to_owned(), path, headers, body: rest })
}

async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<(), Unreadable> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => Err(Unreadable::Closed),
        Ok(_) => Ok(()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers beside length and type.
    pub headers: Vec<(String, String)>,
    /// Body; empty for none.
    pub body: Vec<u8>,
}

impl Response {
    /// A status with a body.
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    /// Its octets.
    pub fn octets(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            206 => "Partial Content",
            300 => "Multiple Choices",
            404 => "Not Found",
            _ => "Status",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 {
            head.push_str(&format!("Content-Type: text/xml; charset=utf-8\r\nContent-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut octets = head.into_bytes();
        if self.status != 204 {
            octets.extend_from_slice(&self.body);
        }
        octets
    }
}
