//! The rendered configuration for each level of nginx's features, kept as files: a change of the renderer shows in the diff.
//! `ELPH_UPDATE_GOLDEN=1` writes them anew.

#![expect(clippy::unwrap_used, reason = "tests: a failed one is a failed test")]

use std::path::{Path, PathBuf};

use elph_proxy::{
    config::Config,
    nginx::features::{Features, Version},
    render::{Copy, Input, Placed, render},
};

const TOML: &str = r#"
[listen]
addresses = ["0.0.0.0:443", "[::]:443"]
redirect = ["0.0.0.0:80"]
hosts = ["elph.example.org"]
[[services]]
name = "chat"
upstreams = ["10.0.0.5:3011", "10.0.0.6:3011", "chat3.example.org:3011"]
[[services]]
name = "files"
websocket = false
[[services]]
name = "sso"
upstreams = ["sso.example.org:8282"]
"#;

fn text(features: Features) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    std::fs::write(&path, TOML).unwrap();
    let loaded = Config::load_with(&path, []).unwrap();
    let copy = |service: &str, upstream: &elph_proxy::config::Upstream| Copy {
        name: upstream.to_string(),
        addresses: upstream.to_string().parse().into_iter().collect(),
        well: service != "chat" || upstream.host != "10.0.0.6",
    };
    let placed = |service: &elph_proxy::config::Service| Placed {
        service: service.clone(),
        copies: service.upstreams.iter().map(|upstream| copy(&service.name, upstream)).collect(),
    };
    let services: Vec<Placed> = loaded.services.iter().map(placed).collect();
    render(&Input { config: &loaded.config, services: &services, features, challenging: false, generation: 7 })
}

/// As above, with the ACME server expected.
fn challenged(features: Features) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    let acme = "[acme]\ndirectory = \"https://acme.example.org/directory\"\naccept_terms = true\n[[services]]";
    std::fs::write(&path, TOML.replacen("[[services]]", acme, 1)).unwrap();
    let loaded = Config::load_with(&path, []).unwrap();
    render(&Input { config: &loaded.config, services: &[], features, challenging: true, generation: 7 })
}

fn kept(name: &str, text: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("ELPH_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not what is rendered now; ELPH_UPDATE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn each_level_of_features_has_its_own_words_and_no_others() {
    let levels = [
        ("1.14.0", Version(1, 14, 0), Some(Version(1, 1, 1))),
        ("1.18.0", Version(1, 18, 0), Some(Version(1, 1, 1))),
        ("1.22.1", Version(1, 22, 1), Some(Version(3, 0, 15))),
        ("1.26.0", Version(1, 26, 0), Some(Version(3, 0, 15))),
        ("1.28.0", Version(1, 28, 0), Some(Version(3, 5, 0))),
    ];
    for (name, version, openssl) in levels {
        let text = text(Features::with(version, openssl));
        let has = |word: &str| text.contains(word);
        assert_eq!(has("http2 on;"), version >= Version(1, 25, 1), "{name}");
        assert_eq!(has(" ssl http2"), version < Version(1, 25, 1), "{name}");
        assert_eq!(has("ssl_reject_handshake"), version >= Version(1, 19, 4), "{name}");
        assert_eq!(has("http2_max_field_size"), version < Version(1, 19, 7), "{name}");
        assert_eq!(has("keepalive_time 1h"), version >= Version(1, 19, 10), "{name}");
        assert_eq!(has("keepalive_min_timeout"), version >= Version(1, 27, 4), "{name}");
        kept(&format!("tests/golden/{name}.conf"), &text);
    }
}

#[test]
fn while_the_acme_server_is_expected_connections_are_told_apart_at_the_oldest_level_too() {
    for (name, version) in [("1.14.0", Version(1, 14, 0)), ("1.28.0", Version(1, 28, 0))] {
        let text = challenged(Features::with(version, Some(Version(3, 0, 0))));
        let (http, stream) = text.split_once("\nstream {").unwrap();
        assert!(text.contains("load_module ") && stream.contains("listen 0.0.0.0:443;") && stream.contains("acme-tls/1"), "{name}");
        assert!(!http.contains("listen 0.0.0.0:443") && http.contains("https.sock ssl") && http.contains("real_ip_header proxy_protocol;"));
        kept(&format!("tests/golden/{name}.acme.conf"), &text);
    }
}

#[test]
fn the_committed_schema_is_that_of_the_configuration() {
    kept("config.schema.json", &Config::schema());
}

#[test]
fn the_example_holds_the_defaults_and_every_mistake_is_named_with_its_line() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.example.toml");
    let loaded = Config::load_with(&example, []).unwrap();
    assert_eq!(loaded.services.len(), 9);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    for (wrong, line, word) in [
        ("[listen]\nprofil = \"strict\"\n", 2, "did you mean profile"),
        ("[listen]\nhosts = [\"a b; return 200\"]\n", 2, "no host name"),
        ("[listen]\ncertificate_file = \"/a;b\"\n", 2, "absolute path"),
        ("[[services]]\nname = \"mine\"\nupstreams = [\"a:1\"]\n", 1, "prefix"),
        ("[[services]]\nname = \"mine\"\nprefix = \"/a/../b/\"\nupstreams = [\"a:1\"]\n", 3, "begin and end"),
        ("[[services]]\nname = \"chat\"\nprefix = \"/x{/\"\n", 3, "begin and end"),
        ("[[services]]\nname = \"chat\"\nupstreams = [\"a:1; }\"]\n", 3, "host:port"),
        ("[[services]]\nname = \"chat\"\n[[services]]\nname = \"chat\"\n", 4, "twice"),
        ("[acme]\ndirectory = \"http://a/d\"\naccept_terms = true\nnames = [\"a.example\"]\n", 2, "no https address"),
        ("[acme]\ndirectory = \"https://a/d\"\nnames = [\"a.example\"]\n", 1, "must be true"),
        ("[acme]\ndirectory = \"https://a/d\"\naccept_terms = true\n", 1, "so is listen.hosts"),
        ("[acme]\ndirectory = \"https://a/d\"\naccept_terms = true\nnames = [\"*.a.example\"]\n", 4, "star"),
        ("[limits]\nexempt = [\"10.0.0.0/33\"]\n", 2, "network"),
        ("[nginx]\nfeatures = \"new\"\n", 2, "auto"),
    ] {
        std::fs::write(&path, wrong).unwrap();
        let refused = Config::load_with(&path, []).unwrap_err().to_string();
        assert!(refused.contains(&format!("proxy.toml:{line}:")) && refused.contains(word), "{wrong}\n{refused}");
    }
}
