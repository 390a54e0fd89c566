//! nginx's error log: taken from its standard error, freed of query strings, written into our own log with its level.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::ChildStderr,
};

/// nginx's lines are shorter (`NGX_MAX_ERROR_STR`); what is longer is not nginx's.
const LONGEST: u64 = 4096;

/// Follows the log until nginx has ended.
pub(super) async fn follow(stderr: ChildStderr) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => log(String::from_utf8_lossy(&line).trim_end()),
        }
    }
}

fn log(line: &str) {
    let (level, text) = parts(line);
    let text = without_queries(text);
    match level {
        "emerg" | "alert" | "crit" | "error" => tracing::error!(target: "nginx", "{text}"),
        "warn" | "notice" => tracing::warn!(target: "nginx", "{text}"),
        _ => tracing::info!(target: "nginx", "{text}"),
    }
}

/// Level and text of `2026/11/24 18:00:00 [error] 7#7: *1 connect() failed …` or of `nginx: [emerg] …`.
fn parts(line: &str) -> (&str, &str) {
    let Some((_, rest)) = line.split_once('[') else { return ("info", line) };
    let Some((level, text)) = rest.split_once("] ") else { return ("info", line) };
    (level, text)
}

/// Request lines, upstreams' addresses and referrers without what follows their question marks: that is where tokens are.
fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, query)) = rest.split_once('?') {
        out.push_str(before);
        out.push_str("?…");
        let end = query.find(|c: char| c == '"' || c.is_whitespace()).unwrap_or(query.len());
        rest = query.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_of_a_query_gets_into_the_log() {
        let line = r#"2026/11/24 18:00:00 [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 10.0.0.9, server: _, request: "GET /elph_chat/ws?token=s3cret&x=%22 HTTP/1.1", upstream: "http://127.0.0.1:3011/elph_chat/ws?token=s3cret", host: "elph", referrer: "https://elph/?code=s3cret""#;
        let (level, text) = parts(line);
        let text = without_queries(text);
        assert_eq!(level, "error");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains(r#"request: "GET /elph_chat/ws?… HTTP/1.1""#) && text.contains(r#"host: "elph""#), "{text}");
        assert_eq!(parts("nginx: [emerg] bind() failed"), ("emerg", "bind() failed"));
        assert_eq!(parts("something else"), ("info", "something else"));
    }
}
