//! What can be looked at without the switch: configuration, files, journal, sockets, grants, certificates.

use std::{io, net::SocketAddr, path::Path};

use jiff::Timestamp;

use super::report::{Place, Setting};
use crate::config::{Loaded, Refused};

/// A certificate that expires sooner than this is to be renewed.
const SOON_S: i64 = 14 * 86_400;

pub(super) fn examine(loaded: &Loaded) -> Place {
    let mut place = Place::new("configuration");
    let file = loaded.path.display().to_string();
    place.well("file", format!("{file} is read and every key is known"));
    for (problem, line) in loaded.warnings.iter().zip(Refused::lines(&file, &loaded.warnings)) {
        place.advice("unwise", line, vec![Setting::key(&problem.key)]);
    }
    let unreadable = loaded.unreadable();
    if unreadable.is_empty() {
        place.well("files", "every file that the configuration names can be read");
    }
    for (problem, line) in unreadable.iter().zip(Refused::lines(&file, &unreadable)) {
        place.wrong("files", line, vec![Setting::key(&problem.key)]);
    }
    journal(&mut place, &loaded.config.journal.directory);
    grants(&mut place, loaded);
    certificate(&mut place, loaded);
    if let Some(socket) = loaded.config.grpc.socket() {
        self::socket(&mut place, socket);
    }
    listener(&mut place, "http.listen", loaded.config.http.listen);
    if let Some(address) = loaded.config.grpc.listen {
        listener(&mut place, "grpc.listen", address);
    }
    place
}

fn journal(place: &mut Place, directory: &Path) {
    let existing = directory.ancestors().find(|path| path.is_dir());
    let shown = directory.display();
    match existing.map(writable) {
        Some(Ok(())) if existing == Some(directory) => place.well("journal", format!("{shown} can be written to")),
        Some(Ok(())) => place.well("journal", format!("{shown} is not there yet and can be made")),
        Some(Err(error)) => {
            let user = nix::unistd::geteuid();
            place.wrong(
                "journal",
                format!("{shown} cannot be written to by user {user}: {error}"),
                vec![Setting::key("journal.directory")],
            );
        }
        None => place.wrong("journal", format!("{shown} cannot be made"), vec![Setting::key("journal.directory")]),
    }
}

fn writable(directory: &Path) -> io::Result<()> {
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).map_err(io::Error::from)
}

fn grants(place: &mut Place, loaded: &Loaded) {
    let grants = &loaded.config.grants;
    if grants.is_empty() {
        place.wrong("grants", "there is none: every request is refused", vec![Setting::key("grants")]);
        return;
    }
    let empty: Vec<&str> = grants
        .iter()
        .filter(|grant| grant.who.is_empty() || grant.domains.is_empty() || grant.scopes.is_empty())
        .map(|grant| grant.name.as_str())
        .collect();
    match empty.as_slice() {
        [] => place.well("grants", format!("{} callers may do something", grants.len())),
        names => {
            let said = format!("these allow nothing, for want of who, domains or scopes: {}", names.join(", "));
            place.wrong("grants", said, vec![Setting::key("grants")]);
        }
    }
}

fn certificate(place: &mut Place, loaded: &Loaded) {
    match crate::tls::server_config(&loaded.config.grpc) {
        Ok(None) => {}
        Ok(Some(material)) => {
            let left = material.expires_at - Timestamp::now().as_second();
            let (said, set) = (expiry(left), vec![Setting::key("grpc.certificate_file")]);
            if left < SOON_S { place.wrong("certificate", said, set) } else { place.well("certificate", said) }
        }
        Err((key, what)) => place.wrong("certificate", what, vec![Setting::key(format!("grpc.{key}"))]),
    }
}

/// How long a certificate is still good.
pub(super) fn expiry(seconds_left: i64) -> String {
    match seconds_left {
        left if left < 0 => format!("it expired {} days ago", -left / 86_400),
        left => format!("it is good for {} days", left / 86_400),
    }
}

/// Whether that is soon.
pub(super) fn expires_soon(seconds_left: i64) -> bool {
    seconds_left < SOON_S
}

fn socket(place: &mut Place, path: &Path) {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        place.well("grpc.socket", "an agent serves it");
        return;
    }
    let directory = path.ancestors().skip(1).find(|path| path.is_dir());
    match directory.map(writable) {
        Some(Ok(())) => place.well("grpc.socket", format!("{} can be made; no agent serves it now", path.display())),
        _ => {
            let user = nix::unistd::geteuid();
            let said = format!("{} cannot be made by user {user} (systemd makes its directory for the service)", path.display());
            place.advice("grpc.socket", said, vec![Setting::key("grpc.socket")]);
        }
    }
}

fn listener(place: &mut Place, key: &str, address: SocketAddr) {
    match std::net::TcpListener::bind(address) {
        Ok(_) => place.well(key, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            place.advice(key, format!("{address} is in use: by the running agent, or by another program"), vec![Setting::key(key)]);
        }
        Err(error) => place.wrong(key, format!("{address}: {error}"), vec![Setting::key(key)]),
    }
}
