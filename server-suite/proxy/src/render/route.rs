//! From a prefix to the copies of its service.

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr};

use super::{Placed, Text, door, time};
use crate::{
    config::{Config, Service},
    nginx::features::Features,
};

/// Marks a WebSocket's request on its way to a location of its own. Never seen outside.
const TO_WEBSOCKET: u16 = 418;

/// Connections to a service that each worker keeps open.
const KEPT: u32 = 64;

/// The copies of a service.
pub(super) fn upstream(out: &mut Text, placed: &Placed, features: &Features) {
    // When none is well, all stay: the first to come back is found without a reload, and until then the answer is 502.
    let none_well = !placed.copies.iter().any(|copy| copy.well && !copy.addresses.is_empty());
    if !reachable(placed) {
        return;
    }
    out.block(format_args!("upstream elph_{}", placed.service.name), |out| {
        out.line(format_args!("zone elph_{} 256k;", placed.service.name));
        for copy in &placed.copies {
            for address in &copy.addresses {
                if copy.well || none_well {
                    out.line(format_args!("server {address} max_fails=2 fail_timeout=5s;"));
                } else {
                    out.line(format_args!("# {address} of {} is not well", copy.name));
                }
            }
            if copy.addresses.is_empty() {
                out.line(format_args!("# {} is not known to DNS", copy.name));
            }
        }
        out.line(format_args!("keepalive {KEPT};"));
        if features.upstream_keepalive_timeout {
            out.line("keepalive_timeout 30s;");
            out.line("keepalive_requests 100000;");
        }
    });
}

/// The locations of a service.
pub(super) fn locations(out: &mut Text, placed: &Placed, config: &Config) {
    let service = &placed.service;
    if !reachable(placed) {
        out.block(format_args!("location {}", service.prefix), |out| {
            out.line(format_args!("set $elph_service {};", service.name));
            out.line("return 503;");
        });
        return;
    }
    out.block(format_args!("location {}", service.prefix), |out| {
        out.line(format_args!("set $elph_service {};", service.name));
        if service.websocket {
            door::problems(out);
            // The way to a WebSocket is an error page, and must not be the last one.
            out.line("recursive_error_pages on;");
            out.line(format_args!("error_page {TO_WEBSOCKET} = @websocket_{};", service.name));
            out.block("if ($elph_upgrade)", |out| out.line(format_args!("return {TO_WEBSOCKET};")));
        }
        passed(out, service, config);
        header(out, "Upgrade", r#""""#);
        header(out, "Connection", r#""""#);
        out.line(format_args!("proxy_read_timeout {};", time(service.read_timeout.0)));
        out.line(format_args!("proxy_send_timeout {};", time(service.read_timeout.0)));
        if service.streaming {
            out.line("proxy_request_buffering off;");
            out.line("proxy_max_temp_file_size 0;");
        }
    });
    if service.websocket {
        out.block(format_args!("location @websocket_{}", service.name), |out| {
            passed(out, service, config);
            header(out, "Upgrade", "$elph_upgrade");
            header(out, "Connection", "$elph_connection");
            out.line(format_args!("proxy_read_timeout {};", time(service.websocket_timeout.0)));
            out.line(format_args!("proxy_send_timeout {};", time(service.websocket_timeout.0)));
        });
    }
}

fn passed(out: &mut Text, service: &Service, config: &Config) {
    let limits = &config.limits;
    if limits.rate.per_second > 0 {
        out.line(format_args!("limit_req zone=elph_rate burst={} nodelay;", limits.rate.burst));
    }
    if let Some(rate) = service.rate {
        out.line(format_args!("limit_req zone=elph_rate_{} burst={} nodelay;", service.name, rate.burst));
    }
    if limits.connections > 0 {
        out.line(format_args!("limit_conn elph_connections {};", limits.connections));
    }
    out.line(format_args!("client_max_body_size {};", service.body.0));
    out.line(format_args!("proxy_pass http://elph_{};", service.name));
    out.line("proxy_http_version 1.1;");
    out.line(format_args!("proxy_connect_timeout {};", time(service.connect_timeout.0)));
    // A request that changes something is sent again only if it cannot have been executed; nginx keeps to that without
    // `non_idempotent`.
    out.line("proxy_next_upstream error timeout invalid_header;");
    out.line("proxy_next_upstream_tries 3;");
    out.line("proxy_next_upstream_timeout 10s;");
    out.line("proxy_buffer_size 16k;");
    out.line("proxy_buffers 8 16k;");
    out.line("proxy_redirect off;");
    // A service cannot make nginx serve files or other locations.
    out.line("proxy_ignore_headers X-Accel-Redirect X-Accel-Limit-Rate X-Accel-Charset X-Accel-Expires;");
    for hidden in ["X-Request-Id", "X-Powered-By", "Strict-Transport-Security"] {
        out.line(format_args!("proxy_hide_header {hidden};"));
    }
    // What the client says of itself is replaced by what is known of it.
    let ports: BTreeSet<u16> = config.listen.addresses.iter().map(SocketAddr::port).collect();
    // Told literally where there is one: connections that come through a socket of the stream module have none.
    let port = ports.first().filter(|_| ports.len() == 1).map_or_else(|| "$server_port".to_owned(), u16::to_string);
    let host = if port == "443" { "$host".to_owned() } else { format!("$host:{port}") };
    let known = [
        ("Host", host.as_str()),
        ("X-Request-Id", "$request_id"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Proto", "$scheme"),
        ("X-Forwarded-Host", &host),
        ("X-Forwarded-Port", &port),
    ];
    for (name, value) in known {
        header(out, name, value);
    }
    let dropped = [
        "Forwarded",
        "X-Forwarded-Server",
        "X-Forwarded-Prefix",
        "X-Forwarded-Ssl",
        "X-Forwarded-Scheme",
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "True-Client-IP",
        "X-Client-Cert",
        "Via",
        // Hop by hop (RFC 9110, 7.6.1), or read as variables of a process.
        "Proxy",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Trailer",
        "HTTP2-Settings",
    ];
    for name in dropped {
        header(out, name, r#""""#);
    }
}

fn header(out: &mut Text, name: &str, value: impl Display) {
    out.line(format_args!("proxy_set_header {name} {value};"));
}

fn reachable(placed: &Placed) -> bool {
    placed.copies.iter().any(|copy| !copy.addresses.is_empty())
}
