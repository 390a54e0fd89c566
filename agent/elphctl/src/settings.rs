//! Where the agent is and who speaks: command line over environment over settings file over default.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    cli::{Connection, value},
    failure::Failure,
};

/// Where the packaged agent listens.
pub(crate) const DEFAULT_SOCKET: &str = "/run/elph-agent/grpc.sock";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// PEM files and tokens are small; a wrong path must not be read into memory whole.
const FILE_LIMIT: u64 = 1 << 20;

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    socket: Option<PathBuf>,
    server: Option<String>,
    server_name: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    actor: Option<String>,
    timeout: Option<String>,
    domain: Option<String>,
}

/// Where the agent is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Endpoint {
    /// A Unix socket.
    Socket(PathBuf),
    /// Mutual TLS.
    Server {
        /// `https://host:port`.
        url: String,
        /// Name in the certificate, if not the host.
        name: Option<String>,
        /// The agent's authority.
        ca: PathBuf,
        /// Our certificate and key.
        identity: (PathBuf, PathBuf),
    },
}

/// A moderator's access token, which never prints.
#[derive(Clone)]
pub(crate) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(***)")
    }
}

impl Token {
    /// The value of the metadata `authorization`.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// Everything that is settled before a connection.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the agent is.
    pub(crate) endpoint: Endpoint,
    /// The moderator's token.
    pub(crate) token: Option<Token>,
    /// The acting person.
    pub(crate) actor: Option<String>,
    /// Longest wait for the connection and each answer.
    pub(crate) timeout: Duration,
    /// Domain when a command names none.
    pub(crate) domain: Option<String>,
    /// The connection options of the command line, to be repeated in advice.
    pub(crate) prefix: Vec<String>,
}

impl Settings {
    /// Settles them.
    pub(crate) fn settle(connection: &Connection) -> Result<Self, Failure> {
        let file = read_settings(connection.config.clone())?;
        let timeout = match (connection.timeout, &file.timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => value::duration(text).map_err(|what| Failure::Usage(format!("settings file: timeout {what}")))?,
            (None, None) => DEFAULT_TIMEOUT,
        };
        Ok(Self {
            endpoint: endpoint(connection, &file)?,
            token: token(connection, &file)?,
            actor: connection.actor.clone().or(file.actor),
            timeout,
            domain: file.domain,
            prefix: prefix(connection),
        })
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn home(rest: &str) -> Option<PathBuf> {
    let base = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(base.join(rest))
}

fn read_settings(named: Option<PathBuf>) -> Result<File, Failure> {
    let named = named.or_else(|| variable("ELPHCTL_CONFIG").map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None => match home("elphctl.toml").filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(File::default()),
        },
    };
    let text = read_small(&path).map_err(Failure::Usage)?;
    let text = String::from_utf8(text).map_err(|_| Failure::Usage(format!("{}: is not UTF-8", path.display())))?;
    toml::from_str(&text).map_err(|error| Failure::Usage(format!("{}: {}", path.display(), error.to_string().trim_end())))
}

/// Reads a small file, or says in one line why not.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut content = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut content).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(format!("{} is larger than a megabyte: is it the right file?", path.display()));
    }
    Ok(content)
}

fn endpoint(connection: &Connection, file: &File) -> Result<Endpoint, Failure> {
    let server = |url: &str| {
        if !url.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "--server {url}: must be https://HOST:PORT; the agent speaks plainly on its Unix socket only"
            )));
        }
        let need = |value: &Option<PathBuf>, other: &Option<PathBuf>, option: &str| {
            value
                .clone()
                .or_else(|| other.clone())
                .ok_or_else(|| Failure::Usage(format!("--server needs {option}: the agent and you prove who you are")))
        };
        Ok(Endpoint::Server {
            url: url.to_owned(),
            name: connection.server_name.clone().or_else(|| file.server_name.clone()),
            ca: need(&connection.ca, &file.ca, "--ca")?,
            identity: (need(&connection.cert, &file.cert, "--cert")?, need(&connection.key, &file.key, "--key")?),
        })
    };
    let from_variables = (variable("ELPHCTL_SOCKET"), variable("ELPHCTL_SERVER"));
    if let Some(url) = &connection.server {
        return server(url);
    }
    if let Some(path) = &connection.socket {
        return Ok(Endpoint::Socket(path.clone()));
    }
    match from_variables {
        (Some(_), Some(_)) => return Err(Failure::Usage("ELPHCTL_SOCKET and ELPHCTL_SERVER are both set: which is it?".into())),
        (Some(path), None) => return Ok(Endpoint::Socket(path.into())),
        (None, Some(url)) => return server(&url),
        (None, None) => {}
    }
    match (&file.socket, &file.server) {
        (Some(_), Some(_)) => Err(Failure::Usage("settings file: socket and server are both set: which is it?".into())),
        (None, Some(url)) => server(url),
        (socket, None) => Ok(Endpoint::Socket(socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()))),
    }
}

fn token(connection: &Connection, file: &File) -> Result<Option<Token>, Failure> {
    let from_file = |path: &Path| {
        let content = read_small(path).map_err(Failure::Usage)?;
        let text = String::from_utf8(content).map_err(|_| Failure::Usage(format!("{}: is not a token", path.display())))?;
        checked(text.trim(), &path.display().to_string()).map(Some)
    };
    if let Some(path) = &connection.token_file {
        return from_file(path);
    }
    if let Some(text) = variable("ELPHCTL_TOKEN") {
        return checked(text.trim(), "ELPHCTL_TOKEN").map(Some);
    }
    file.token_file.as_deref().map_or(Ok(None), from_file)
}

/// The token, if it can be sent; the message must not quote it.
fn checked(text: &str, source: &str) -> Result<Token, Failure> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Usage(format!("{source}: does not hold a token (one line of printable ASCII)")));
    }
    Ok(Token(text.to_owned()))
}

fn prefix(connection: &Connection) -> Vec<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let options = [
        ("--config", path(&connection.config)),
        ("--socket", path(&connection.socket)),
        ("--server", connection.server.clone()),
        ("--server-name", connection.server_name.clone()),
        ("--ca", path(&connection.ca)),
        ("--cert", path(&connection.cert)),
        ("--key", path(&connection.key)),
    ];
    options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?])).flatten().collect()
}
