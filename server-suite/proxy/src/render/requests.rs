//! What is decided about every request before it goes anywhere: bad ones, limits, and what is written about it.

use super::{Placed, Text, door, time};
use crate::{config::Config, nginx::features::Features};

/// Maps that say which requests are refused, and what of the request's headers a service sees.
pub(super) fn maps(out: &mut Text, services: &[Placed]) {
    // nginx routes by the decoded path with dots resolved, and passes on the path as it came. A service that reads the same path
    // in another way would be reached behind the door's back, so every path with two readings is refused: dot segments, also with
    // parameters; encoded dots, slashes, backslashes and percent signs; empty segments; backslashes; control characters; two bytes for what is one
    // (no UTF-8 begins with C0 or C1).
    out.block("map $uri $elph_own", |out| {
        out.line(r#"default "";"#);
        out.line(format_args!(r#""~^{}" own;"#, quoted(door::PROBLEM)));
    });
    // On the way to an answer of the door's own nothing is judged: that would lose the answer.
    out.block(r#"map "$elph_own$request_uri" $elph_ambiguous_path"#, |out| {
        out.line("default 0;");
        out.line(r#""~^own" 0;"#);
        out.line(r#""~^[^?]*/\.{1,2}(?:[/;?]|$)" 1;"#);
        out.line(r#""~*^[^?]*%(?:2e|2f|5c|25|0[0-9a-f]|1[0-9a-f]|7f|c[01])" 1;"#);
        out.line(r#""~*^[^?]*(?:;|%3b)[^/?]*\.\." 1;"#);
        out.line(r#""~^[^?]*(?://|\x5c)" 1;"#);
        out.line(r#""~^[^/]" 1;"#);
    });
    // The two lengths of a body that smuggled requests hide between (RFC 9112, 6.1).
    out.block(r#"map "$elph_own$server_protocol $http_content_length $http_transfer_encoding" $elph_ambiguous_body"#, |out| {
        out.line("default 0;");
        out.line(r#""~^own" 0;"#);
        out.line(r#""~^[^ ]+ [^ ]+ .+" 1;"#);
        out.line(r#""~^HTTP/1\.0 [^ ]* .+" 1;"#);
    });
    let hidden = services.iter().flat_map(|placed| placed.service.hidden.iter().map(move |path| (&placed.service.prefix, path)));
    let hidden: Vec<String> = hidden.map(|(prefix, path)| format!(r#""~*^{}{}(?:/|$)" 1;"#, quoted(prefix), quoted(path))).collect();
    out.block("map $uri $elph_hidden", |out| {
        out.line("default 0;");
        hidden.iter().for_each(|line| out.line(line));
    });
    // Only WebSockets are upgraded; `Upgrade: h2c` would be a way around every rule here.
    out.block("map $http_upgrade $elph_upgrade", |out| {
        out.line(r#"default "";"#);
        out.line(r#""~*^websocket$" websocket;"#);
    });
    out.block("map $elph_upgrade $elph_connection", |out| {
        out.line(r#"default "";"#);
        out.line("websocket upgrade;");
    });
    // No copy was connected to: nothing of the request can have been executed.
    out.block("map $upstream_connect_time $elph_unreached", |out| {
        out.line("default 0;");
        out.line(r#""~^[-, :]*$" 1;"#);
    });
    out.block(r#"map "$status$upstream_http_retry_after" $elph_retry_after"#, |out| {
        out.line(r#"default "";"#);
        out.line("429 1;");
        out.line("503 5;");
    });
    // A header that the service has set is not set again.
    for (variable, upstream, value) in [
        ("elph_content_type_options", "x_content_type_options", "nosniff"),
        ("elph_frame_options", "x_frame_options", "SAMEORIGIN"),
        ("elph_referrer_policy", "referrer_policy", "same-origin"),
    ] {
        out.block(format_args!("map $upstream_http_{upstream} ${variable}"), |out| {
            out.line(r#"default "";"#);
            out.line(format_args!(r#""" "{value}";"#));
        });
    }
}

/// Limits on clients.
pub(super) fn limits(out: &mut Text, config: &Config, services: &[Placed], features: &Features) {
    let limits = &config.limits;
    out.block("geo $elph_limited", |out| {
        out.line("default 1;");
        limits.exempt.iter().for_each(|network| out.line(format_args!("{network} 0;")));
    });
    // An empty key is not counted.
    out.block("map $elph_limited $elph_client", |out| {
        out.line("default $binary_remote_addr;");
        out.line(r#"0 "";"#);
    });
    if limits.rate.per_second > 0 {
        out.line(format_args!("limit_req_zone $elph_client zone=elph_rate:16m rate={}r/s;", limits.rate.per_second));
    }
    if limits.connections > 0 {
        out.line("limit_conn_zone $elph_client zone=elph_connections:16m;");
    }
    for placed in services {
        if let Some(rate) = placed.service.rate {
            out.line(format_args!("limit_req_zone $elph_client zone=elph_rate_{}:8m rate={}r/s;", placed.service.name, rate.per_second));
        }
    }
    out.line("limit_req_status 429;");
    out.line("limit_conn_status 429;");
    out.line("limit_req_log_level info;");
    out.line("limit_conn_log_level info;");
    out.line(format_args!("client_header_timeout {};", time(limits.header_timeout.0)));
    out.line(format_args!("client_body_timeout {};", time(limits.body_timeout.0)));
    out.line(format_args!("send_timeout {};", time(limits.send_timeout.0)));
    out.line("reset_timedout_connection on;");
    out.line("lingering_time 10s;");
    out.line("lingering_timeout 2s;");
    out.line(format_args!("keepalive_timeout {};", time(limits.idle_timeout.0)));
    out.line("keepalive_requests 100000;");
    if features.keepalive_time {
        out.line("keepalive_time 1h;");
    }
    if features.keepalive_min_timeout {
        out.line("keepalive_min_timeout 2s;");
    }
    out.line("client_header_buffer_size 1k;");
    out.line(format_args!("large_client_header_buffers {} {};", limits.header_lines, limits.header_line.0));
    out.line(format_args!("client_max_body_size {};", limits.body.0));
    out.line("client_body_buffer_size 16k;");
    out.line(format_args!("http2_max_concurrent_streams {};", limits.streams));
    if !features.http2_shares_limits {
        out.line(format_args!("http2_max_field_size {};", limits.header_line.0));
        out.line(format_args!("http2_max_header_size {};", limits.header_line.0.saturating_mul(u64::from(limits.header_lines))));
        out.line(format_args!("http2_recv_timeout {};", time(limits.header_timeout.0)));
        out.line(format_args!("http2_idle_timeout {};", time(limits.idle_timeout.0)));
        out.line("http2_max_requests 100000;");
    }
    out.line("ignore_invalid_headers on;");
    out.line("underscores_in_headers off;");
    // Two slashes are not one: they are refused, and must not match a prefix before that.
    out.line("merge_slashes off;");
}

/// The access log. Neither query nor referrer, cookie or authorization: those hold tokens.
pub(super) fn log(out: &mut Text, config: &Config) {
    if !config.access_log.enabled {
        out.line("access_log off;");
        return;
    }
    // Requests that go to no service have none.
    out.line("uninitialized_variable_warn off;");
    let fields = [
        ("time", r#""$time_iso8601""#),
        ("service", r#""$elph_service""#),
        ("status", "$status"),
        ("method", r#""$request_method""#),
        ("host", r#""$host""#),
        ("path", r#""$uri""#),
        ("protocol", r#""$server_protocol""#),
        ("tls", r#""$ssl_protocol""#),
        ("client", r#""$remote_addr""#),
        ("request_id", r#""$request_id""#),
        ("seconds", "$request_time"),
        ("bytes_in", "$request_length"),
        ("bytes_out", "$bytes_sent"),
        ("copy", r#""$upstream_addr""#),
        ("copy_status", r#""$upstream_status""#),
        ("copy_seconds", r#""$upstream_response_time""#),
        ("agent", r#""$http_user_agent""#),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    out.line(format_args!("log_format elph escape=json '{{{}}}';", fields.join(",")));
    let log = &config.access_log;
    match log.buffer.0 {
        0 => out.line(format_args!("access_log {} elph;", log.file.display())),
        buffer => out.line(format_args!("access_log {} elph buffer={buffer} flush=1s;", log.file.display())),
    }
}

/// What stands before the rules of a server: the refusals.
pub(super) fn refusals(out: &mut Text) {
    out.block("if ($elph_ambiguous_body)", |out| out.line(format_args!("return {};", door::AMBIGUOUS)));
    out.block("if ($elph_ambiguous_path)", |out| out.line(format_args!("return {};", door::AMBIGUOUS)));
    out.block("if ($elph_hidden)", |out| out.line(format_args!("return {};", door::HIDDEN)));
}

/// A path inside a regular expression.
fn quoted(path: &str) -> String {
    path.replace('.', r"\.")
}
