//! What an nginx can do, by its version and that of its OpenSSL (nginx's CHANGES file).

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A version of nginx or OpenSSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// What may be written into its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// nginx's version.
    pub version: Version,
    /// TLS 1.3: nginx 1.13.0 with OpenSSL 1.1.1.
    pub tls13: bool,
    /// The key exchange that withstands quantum computers: OpenSSL 3.5.
    pub hybrid_key_exchange: bool,
    /// `keepalive_timeout` and `keepalive_requests` in `upstream`: 1.15.3.
    pub upstream_keepalive_timeout: bool,
    /// `ssl_reject_handshake`: 1.19.4.
    pub reject_handshake: bool,
    /// `-e` names the error log of the start: 1.19.5.
    pub error_log_argument: bool,
    /// HTTP/2 follows the same limits as HTTP/1.1; its own directives are gone: 1.19.7.
    pub http2_shares_limits: bool,
    /// `keepalive_time`: 1.19.10.
    pub keepalive_time: bool,
    /// `http2 on` instead of `listen … http2`: 1.25.1.
    pub http2_directive: bool,
    /// `keepalive_min_timeout`: idle connections are not closed at once when workers go: 1.27.4.
    pub keepalive_min_timeout: bool,
    /// Connections can be told apart before TLS begins: `ssl_preread_alpn_protocols` of the stream module, 1.13.10.
    pub stream: Stream,
}

/// Where the stream module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// Nowhere.
    Missing,
    /// In the program.
    BuiltIn,
    /// In a file that is loaded when it is needed.
    Module(PathBuf),
}

/// What `nginx -V` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// What may be written.
    pub features: Features,
    /// Its OpenSSL, when it says so.
    pub openssl: Option<Version>,
    /// Modules that are needed and missing.
    pub missing: Vec<&'static str>,
}

/// Modules that the rendered configuration needs beside those that every nginx has.
const NEEDED: [&str; 4] = ["http_ssl_module", "http_v2_module", "http_stub_status_module", "http_realip_module"];

/// Where the distributions keep nginx's modules.
const MODULES: &str = "/usr/lib/nginx/modules";
const STREAM_MODULE: &str = "ngx_stream_module.so";

/// The oldest nginx that the configuration is rendered for (Ubuntu 18.04's).
pub const OLDEST: Version = Version(1, 14, 0);

// === impl Version ===

impl Version {
    /// `1.22.1`, or `1.1.1w` with a letter that is left out.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..digits).and_then(|digits| u32::from_str(digits).ok())
        });
        let (first, second) = (numbers.next()??, numbers.next()??);
        Some(Self(first, second, numbers.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

// === impl Features ===

impl Features {
    /// Of a version, with the OpenSSL that its distributions have.
    pub fn of(version: Version) -> Self {
        Self::with(version, Some(Version(1, 1, 1)))
    }

    /// Of a version with this OpenSSL.
    pub fn with(version: Version, openssl: Option<Version>) -> Self {
        let since = |major, minor, patch| version >= Version(major, minor, patch);
        let openssl_since = |wanted| openssl.is_none_or(|openssl| openssl >= wanted);
        Self {
            version,
            tls13: since(1, 13, 0) && openssl_since(Version(1, 1, 1)),
            hybrid_key_exchange: openssl.is_some_and(|openssl| openssl >= Version(3, 5, 0)),
            upstream_keepalive_timeout: since(1, 15, 3),
            reject_handshake: since(1, 19, 4),
            error_log_argument: since(1, 19, 5),
            http2_shares_limits: since(1, 19, 7),
            keepalive_time: since(1, 19, 10),
            http2_directive: since(1, 25, 1),
            keepalive_min_timeout: since(1, 27, 4),
            stream: Stream::Module(Path::new(MODULES).join(STREAM_MODULE)),
        }
    }
}

// === impl Stream ===

impl Stream {
    fn of(text: &str) -> Self {
        let arguments: Vec<&str> = text.split_whitespace().collect();
        if !arguments.contains(&"--with-stream_ssl_preread_module") {
            return Self::Missing;
        }
        if arguments.contains(&"--with-stream") {
            return Self::BuiltIn;
        }
        let directory = arguments.iter().find_map(|argument| argument.strip_prefix("--modules-path=")).unwrap_or(MODULES);
        let file = Path::new(directory).join(STREAM_MODULE);
        if arguments.contains(&"--with-stream=dynamic") && file.is_file() { Self::Module(file) } else { Self::Missing }
    }
}

// === impl Build ===

impl Build {
    /// Reads `nginx -V`.
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.lines().find_map(|line| line.strip_prefix("nginx version:")?.trim().rsplit_once('/'));
        let version = Version::parse(version?.1.split_whitespace().next()?)?;
        let openssl = text.lines().find_map(|line| line.strip_prefix("built with OpenSSL "));
        // What is in use counts, and is named when it differs from what was there at the build.
        let openssl = openssl.map(|line| line.split_once("running with OpenSSL ").map_or(line, |(_, running)| running));
        let openssl = openssl.and_then(|text| Version::parse(text.split_whitespace().next()?));
        let missing = NEEDED.into_iter().filter(|module| !text.contains(&format!("--with-{module}"))).collect();
        let features = Features { stream: Stream::of(text), ..Features::with(version, openssl) };
        Some(Self { features, openssl, missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nginx_says_of_itself_is_understood() {
        let debian = "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.15 3 Sep 2024\nTLS SNI support enabled\n\
            configure arguments: --with-http_ssl_module --with-http_v2_module --with-http_stub_status_module --with-http_realip_module";
        let build = Build::parse(debian).unwrap();
        assert_eq!((build.features.version, build.openssl), (Version(1, 22, 1), Some(Version(3, 0, 15))));
        assert!(build.missing.is_empty() && build.features.tls13 && build.features.reject_handshake && !build.features.http2_directive);
        let bionic = "nginx version: nginx/1.14.0 (Ubuntu)\nbuilt with OpenSSL 1.1.0g  2 Nov 2017 (running with OpenSSL 1.1.1  11 Sep 2018)\n\
            configure arguments: --with-http_ssl_module";
        let build = Build::parse(bionic).unwrap();
        assert_eq!((build.features.version, build.openssl), (Version(1, 14, 0), Some(Version(1, 1, 1))));
        assert_eq!(build.missing, ["http_v2_module", "http_stub_status_module", "http_realip_module"]);
        assert_eq!(Stream::of("--with-stream --with-stream_ssl_preread_module"), Stream::BuiltIn);
        assert_eq!(Stream::of("--with-stream=dynamic --with-stream_ssl_preread_module --modules-path=/nowhere"), Stream::Missing);
        let old = Build::parse("nginx version: openresty/1.14.2\nbuilt with OpenSSL 1.1.0g  2 Nov 2017\n").unwrap();
        assert!(!old.features.tls13);
        for nonsense in ["", "nginx", "nginx version: nginx/x"] {
            assert_eq!(Build::parse(nonsense), None, "{nonsense}");
        }
    }
}
