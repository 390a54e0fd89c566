//! The servers: HTTPS, the refusal of foreign host names, the redirect; TLS and the answers that are the door's own.

use super::{Files, Input, Text, requests, route, time};
use crate::{
    config::{Config, Listen, Profile},
    nginx::features::Features,
};

/// Mozilla's intermediate profile, version 5.7, without finite-field Diffie-Hellman: that needs a parameter file.
const INTERMEDIATE: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
    ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// What the door answers by itself: nginx's code, the status and its title.
const PROBLEMS: [(u16, u16, &str); 21] = [
    (400, 400, "Bad Request"),
    (403, 403, "Forbidden"),
    (404, 404, "Not Found"),
    (405, 405, "Method Not Allowed"),
    (408, 408, "Request Timeout"),
    (411, 411, "Length Required"),
    (413, 413, "Content Too Large"),
    (414, 414, "URI Too Long"),
    (421, 421, "Misdirected Request"),
    (429, 429, "Too Many Requests"),
    (494, 431, "Request Header Fields Too Large"),
    (495, 400, "Bad Request"),
    (496, 400, "Bad Request"),
    (497, 400, "Bad Request"),
    (500, 500, "Internal Server Error"),
    (501, 501, "Not Implemented"),
    (502, 502, "Bad Gateway"),
    (503, 503, "Service Unavailable"),
    (504, 504, "Gateway Timeout"),
    (505, 505, "HTTP Version Not Supported"),
    (507, 507, "Insufficient Storage"),
];

/// What nginx says when a service gave no answer.
const UNANSWERED: [u16; 2] = [502, 504];

/// Where those answers are made. Not named locations: nginx cannot go to one with a request whose path it could not read.
pub(super) const PROBLEM: &str = "/.elph/problem/";

/// Marks a path or body with two readings on its way to the answer. Never seen outside.
pub(super) const AMBIGUOUS: u16 = 470;
/// Marks a path that is never routed. Never seen outside.
pub(super) const HIDDEN: u16 = 471;

/// All servers that are reached from outside.
pub(super) fn servers(out: &mut Text, input: &Input<'_>) {
    let Input { config, services, features, .. } = input;
    let listen = &config.listen;
    let anyone = listen.hosts.is_empty();
    if !anyone {
        out.block("server", |out| {
            addresses(out, input, true);
            out.line("server_name _;");
            tls(out, config, features);
            if features.reject_handshake {
                out.line("ssl_reject_handshake on;");
            }
            always(out, input);
            requests::refusals(out);
            problems(out);
            problem_locations(out);
            out.block("location /", |out| out.line("return 421;"));
        });
    }
    out.block("server", |out| {
        addresses(out, input, anyone);
        let names = if anyone { "_".to_owned() } else { listen.hosts.join(" ") };
        out.line(format_args!("server_name {names};"));
        tls(out, config, features);
        always(out, input);
        requests::refusals(out);
        problems(out);
        problem_locations(out);
        for placed in *services {
            route::locations(out, placed, config);
        }
        if !services.iter().any(|placed| placed.service.prefix == "/") {
            out.block("location /", |out| out.line("return 404;"));
        }
    });
    if !listen.redirect.is_empty() {
        redirect(out, listen);
    }
}

fn addresses(out: &mut Text, input: &Input<'_>, default: bool) {
    let Input { config, features, .. } = input;
    let listen = &config.listen;
    let http2 = if features.http2_directive { "" } else { " http2" };
    let chosen = if default { " default_server" } else { "" };
    if !input.challenging {
        let proxied = if listen.proxy_protocol { " proxy_protocol" } else { "" };
        for address in &listen.addresses {
            let six = if default && address.is_ipv6() { " ipv6only=on" } else { "" };
            out.line(format_args!("listen {address} ssl{http2}{proxied}{chosen}{six};"));
        }
    }
    // There also while nobody is expected: workers of before a reload still lead here what they have accepted.
    if config.acme.splits_connections() {
        let socket = Files::of(&config.nginx.directory).https;
        out.line(format_args!("listen unix:{} ssl{http2} proxy_protocol{chosen};", socket.display()));
    }
    if features.http2_directive {
        out.line("http2 on;");
    }
}

/// Connections that are told apart by the protocol that the client asks for, before TLS begins (RFC 8737).
pub(super) fn told_apart(out: &mut Text, input: &Input<'_>, files: &Files) {
    let Input { config, .. } = input;
    out.block("map $ssl_preread_alpn_protocols $elph_end", |out| {
        out.line(format_args!("default unix:{};", files.https.display()));
        out.line(format_args!(r#""~(?:^|,)acme-tls/1(?:,|$)" unix:{};"#, files.acme.display()));
    });
    out.block("server", |out| {
        for address in &config.listen.addresses {
            let six = if address.is_ipv6() { " ipv6only=on" } else { "" };
            out.line(format_args!("listen {address}{six};"));
        }
        out.line("ssl_preread on;");
        out.line(format_args!("preread_timeout {};", time(config.limits.header_timeout.0)));
        out.line("proxy_pass $elph_end;");
        out.line("proxy_protocol on;");
        out.line("proxy_connect_timeout 5s;");
        // The servers behind have their own limits.
        out.line("proxy_timeout 1d;");
    });
}

fn tls(out: &mut Text, config: &Config, features: &Features) {
    let listen = &config.listen;
    let (certificate, key) = config.certificate_files();
    out.line(format_args!("ssl_certificate {};", certificate.display()));
    out.line(format_args!("ssl_certificate_key {};", key.display()));
    match listen.profile {
        Profile::Intermediate if features.tls13 => out.line("ssl_protocols TLSv1.2 TLSv1.3;"),
        Profile::Intermediate => out.line("ssl_protocols TLSv1.2;"),
        Profile::Strict => out.line("ssl_protocols TLSv1.3;"),
    }
    if listen.profile == Profile::Intermediate {
        out.line(format_args!("ssl_ciphers {INTERMEDIATE};"));
    }
    out.line("ssl_prefer_server_ciphers off;");
    let hybrid = if features.hybrid_key_exchange { "X25519MLKEM768:" } else { "" };
    out.line(format_args!("ssl_ecdh_curve {hybrid}X25519:prime256v1:secp384r1;"));
    out.line("ssl_session_cache shared:elph:10m;");
    out.line("ssl_session_timeout 1d;");
    // Tickets would be encrypted by a key that lives as long as nginx does.
    out.line("ssl_session_tickets off;");
    if listen.ocsp_stapling {
        out.line("ssl_stapling on;");
        out.line("ssl_stapling_verify on;");
        if let Some(file) = &listen.ocsp_ca_file {
            out.line(format_args!("ssl_trusted_certificate {};", file.display()));
        }
        if !listen.resolvers.is_empty() {
            out.line(format_args!("resolver {} valid=300s;", listen.resolvers.join(" ")));
            out.line("resolver_timeout 5s;");
        }
    }
}

/// Headers of every answer, and whom to believe about the client's address.
fn always(out: &mut Text, input: &Input<'_>) {
    let listen = &input.config.listen;
    if input.config.acme.splits_connections() {
        out.line("set_real_ip_from unix:;");
        out.line("real_ip_header proxy_protocol;");
    }
    for network in &listen.trusted_proxies {
        out.line(format_args!("set_real_ip_from {network};"));
    }
    if !listen.trusted_proxies.is_empty() {
        let source = if listen.proxy_protocol { "proxy_protocol" } else { "X-Forwarded-For" };
        out.line(format_args!("real_ip_header {source};"));
        out.line("real_ip_recursive on;");
    }
    if !listen.hsts.0.is_zero() {
        out.line(format_args!("add_header Strict-Transport-Security \"max-age={}\" always;", listen.hsts.0.as_secs()));
    }
    out.line("add_header X-Content-Type-Options $elph_content_type_options always;");
    out.line("add_header X-Frame-Options $elph_frame_options always;");
    out.line("add_header Referrer-Policy $elph_referrer_policy always;");
    out.line("add_header X-Request-Id $request_id always;");
    out.line("add_header Retry-After $elph_retry_after always;");
}

/// Where the door's own answers are made. A location with an `error_page` of its own must name them all again.
pub(super) fn problems(out: &mut Text) {
    for (code, status, _) in PROBLEMS {
        // Of these the answer's own place decides: nobody was there, or somebody was and gave no answer.
        if UNANSWERED.contains(&code) {
            out.line(format_args!("error_page {code} = {PROBLEM}{code};"));
        } else {
            out.line(format_args!("error_page {code} ={status} {PROBLEM}{code};"));
        }
    }
    // These have a path, so they can go without a second look at it.
    out.line(format_args!("error_page {AMBIGUOUS} =400 @ambiguous;"));
    out.line(format_args!("error_page {HIDDEN} =404 @hidden;"));
}

fn problem_locations(out: &mut Text) {
    for (code, status, title) in PROBLEMS {
        out.block(format_args!("location = {PROBLEM}{code}"), |out| {
            out.line("internal;");
            // A body that is too large must not lose the answer that says so.
            out.line("client_max_body_size 0;");
            if UNANSWERED.contains(&code) {
                out.block("if ($elph_unreached)", |out| answer(out, 503, "Service Unavailable"));
            }
            problem(out, status, title);
        });
    }
    out.block("location @ambiguous", |out| problem(out, 400, "Bad Request"));
    out.block("location @hidden", |out| problem(out, 404, "Not Found"));
}

fn problem(out: &mut Text, status: u16, title: &str) {
    out.line("default_type application/problem+json;");
    answer(out, status, title);
}

fn answer(out: &mut Text, status: u16, title: &str) {
    let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"request_id":"$request_id"}}"#);
    out.line(format_args!("return {status} '{body}';"));
}

fn redirect(out: &mut Text, listen: &Listen) {
    let port = listen.addresses.first().map_or(443, |address| address.port());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let only = |out: &mut Text, default: bool| {
        for address in &listen.redirect {
            let default = if default { " default_server" } else { "" };
            let six = if address.is_ipv6() && !default.is_empty() { " ipv6only=on" } else { "" };
            out.line(format_args!("listen {address}{default}{six};"));
        }
    };
    if !listen.hosts.is_empty() {
        out.block("server", |out| {
            only(out, true);
            out.line("server_name _;");
            out.line("set $elph_service redirect;");
            problems(out);
            problem_locations(out);
            out.block("location /", |out| out.line("return 421;"));
        });
    }
    out.block("server", |out| {
        only(out, listen.hosts.is_empty());
        let names = if listen.hosts.is_empty() { "_".to_owned() } else { listen.hosts.join(" ") };
        out.line(format_args!("server_name {names};"));
        out.line("set $elph_service redirect;");
        problems(out);
        problem_locations(out);
        out.block("location /", |out| out.line(format_args!("return 308 https://$host{port}$request_uri;")));
    });
}
