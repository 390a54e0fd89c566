//! What an operator would look at, and what to do about it: configuration and files, certificate, the authority, nginx's version and
//! modules, `nginx -t`, open files, addresses, every copy.

use elph_shell::{config::Refused, findings::Findings, told};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    acme,
    config::{Challenge, Loaded},
    nginx::{self, NginxError},
    render::Files,
    run::{features, rendered},
};

/// A certificate that expires sooner than this is to be renewed.
const SOON_S: i64 = 14 * 86_400;

/// Looks at everything. The time it takes is bounded.
pub(crate) async fn examine(loaded: &Loaded) -> Findings {
    let mut report = Findings::default();
    let file = loaded.path.display().to_string();
    report.well(format!("{file} is read and every key is known"));
    for line in Refused::lines(&file, &loaded.warnings) {
        report.know(line, "change the key, or leave it if that is what you want");
    }
    for line in Refused::lines(&file, &loaded.unreadable()) {
        report.wrong(line, "put the file there, readable for the user that elph-proxy runs as");
    }
    certificate(&mut report, loaded);
    authority(&mut report, loaded).await;
    nginx(&mut report, loaded).await;
    addresses(&mut report, loaded).await;
    open_files(&mut report, loaded);
    for service in &loaded.services {
        for upstream in &service.upstreams {
            let deadline = loaded.config.checks.timeout.0;
            let name = format!("{} {upstream}", service.name);
            let advice = format!("start it, correct services.upstreams, or take '{}' out of [[services]]", service.name);
            match timeout(deadline, TcpStream::connect((upstream.host.as_str(), upstream.port))).await {
                Ok(Ok(_)) => report.well(format!("{name} takes connections")),
                Ok(Err(error)) => report.wrong(format!("{name} takes no connection: {error}"), advice),
                Err(_) => report.wrong(format!("{name} takes no connection within {}", loaded.config.checks.timeout), advice),
            }
        }
    }
    report
}

fn certificate(report: &mut Findings, loaded: &Loaded) {
    let config = &loaded.config;
    let file = config.certificate_files().0;
    if config.acme.enabled() && !file.exists() {
        return report.know(format!("{} is not there yet", file.display()), "start elph-proxy: it orders a certificate at once");
    }
    // That it cannot be read was said already.
    let chain = elph_shell::tls::certificates(&file).unwrap_or_default();
    let Some(expiry) = chain.first().and_then(elph_shell::tls::expiry) else { return };
    let Ok(at) = jiff::Timestamp::from_second(expiry) else { return };
    let renew = if config.acme.enabled() {
        "see in the log why the authority gives no new one (elph_proxy_acme_orders_total{outcome=\"failed\"})"
    } else {
        "put a new certificate and key into listen.certificate_file and listen.key_file; they are taken over while running"
    };
    match expiry.saturating_sub(jiff::Timestamp::now().as_second()) {
        ..=0 => report.wrong(format!("the certificate has expired at {at}"), renew),
        1..SOON_S => report.know(format!("the certificate expires soon, at {at}"), renew),
        _ => report.well(format!("the certificate is valid until {at}")),
    }
}

async fn authority(report: &mut Findings, loaded: &Loaded) {
    use std::os::unix::fs::PermissionsExt;
    let acme = &loaded.config.acme;
    if !acme.enabled() {
        return;
    }
    match acme::reach(acme).await {
        Ok(()) => report.well(format!("{} answers", acme.directory)),
        Err(error) => report.wrong(
            format!("{}: {}", acme.directory, told(&error)),
            "correct acme.directory, let this host out to it, and name its own authorities in acme.ca_file if it has any",
        ),
    }
    if acme.challenge == Challenge::Dns && std::fs::metadata(&acme.hook).is_ok_and(|file| file.permissions().mode() & 0o111 == 0) {
        report.wrong(format!("{} cannot be executed", acme.hook.display()), "chmod +x");
    }
    if let Err(error) = std::fs::metadata(&acme.state) {
        report.know(format!("{}: {error}", acme.state.display()), "it is made by the first start, if its parent can be written");
    }
}

async fn nginx(report: &mut Findings, loaded: &Loaded) {
    let features = match features(&loaded.config).await {
        Ok(features) => features,
        Err(error) => return report.wrong(told(&error), "install nginx 1.14 or newer with those modules, and name it in nginx.binary"),
    };
    report.well(format!("nginx {} can be used", features.version));
    if loaded.config.acme.enabled() && !loaded.config.certificate_files().0.exists() {
        return report.know("nginx -t was left out".to_owned(), "look again when there is a certificate");
    }
    let text = rendered(loaded, features.clone()).await;
    let mut files = Files::of(&loaded.config.nginx.directory);
    // Not the running proxy's candidate.
    files.candidate.set_extension("doctor");
    let tested = match nginx::write_candidate(&files, &text) {
        Ok(()) => nginx::test(&loaded.config.nginx, &features, &files.candidate).await,
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(&files.candidate);
    match tested {
        Ok(()) => report.well("nginx takes the rendered configuration".to_owned()),
        // The unit may, this user may not: nothing is wrong with the configuration for that.
        Err(NginxError::Refused { said }) if said.contains("bind()") && said.contains("Permission denied") => {
            report.know(format!("nginx may not open the addresses for this user: {said}"), "look as root");
        }
        Err(error) => report.wrong(
            told(&error),
            "run this as the user that elph-proxy runs as; if it still stands, correct what nginx names in proxy.toml",
        ),
    }
}

/// Whether the door can be opened, or is open already.
async fn addresses(report: &mut Findings, loaded: &Loaded) {
    let listen = &loaded.config.listen;
    for address in listen.addresses.iter().chain(&listen.redirect).chain([&loaded.config.metrics.listen]) {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => report.well(format!("{address} is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                report.know(format!("{address} is in use"), "by elph-proxy if it runs; otherwise stop who has it: ss -ltnp");
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                report.know(format!("{address} may not be opened by this user"), "the unit gives CAP_NET_BIND_SERVICE; look as root");
            }
            Err(error) => report.wrong(format!("{address} cannot be opened: {error}"), "name an address that this host has"),
        }
    }
}

fn open_files(report: &mut Findings, loaded: &Loaded) {
    let wanted = u64::from(loaded.config.nginx.connections) + 1024;
    let Ok((_, most)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) else { return };
    if most >= wanted {
        report.well(format!("{most} files may be open, nginx.connections wants {wanted}"));
    } else {
        let advice = format!("LimitNOFILE={wanted} in the unit, ulimit -Hn {wanted} here, or a smaller nginx.connections");
        report.know(format!("only {most} files may be open, nginx.connections wants {wanted}"), advice);
    }
}
