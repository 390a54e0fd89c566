//! What an operator would look at: files, certificate, nginx's version and modules, `nginx -t`, and every copy.

use std::fmt::Write as _;

use elph_shell::{config::Refused, told};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    config::Loaded,
    nginx,
    render::Files,
    run::{features, rendered},
};

/// A certificate that expires sooner than this is to be renewed.
const SOON_S: i64 = 14 * 86_400;

/// Whether all is well, and what was seen.
pub(crate) async fn examine(loaded: &Loaded) -> (bool, String) {
    let mut report = Report { well: true, text: String::new() };
    let file = loaded.path.display().to_string();
    report.say("well ", &format!("{file} is read and every key is known"));
    for line in Refused::lines(&file, &loaded.warnings) {
        report.say("know ", &line);
    }
    for line in Refused::lines(&file, &loaded.unreadable()) {
        report.say("WRONG", &line);
    }
    certificate(&mut report, loaded);
    match features(&loaded.config).await {
        Err(error) => report.say("WRONG", &told(&error)),
        Ok(features) => {
            report.say("well ", &format!("nginx {} can be used", features.version));
            let text = rendered(loaded, features).await;
            let mut files = Files::of(&loaded.config.nginx.directory);
            // Not the running proxy's candidate.
            files.candidate.set_extension("doctor");
            let tested = match nginx::write_candidate(&files, &text) {
                Ok(()) => nginx::test(&loaded.config.nginx, features, &files.candidate).await,
                Err(error) => Err(error),
            };
            let _ = std::fs::remove_file(&files.candidate);
            match tested {
                Ok(()) => report.say("well ", "nginx takes the rendered configuration"),
                Err(error) => report.say("WRONG", &told(&error)),
            }
        }
    }
    for service in &loaded.services {
        for upstream in &service.upstreams {
            let deadline = loaded.config.checks.timeout.0;
            match timeout(deadline, TcpStream::connect((upstream.host.as_str(), upstream.port))).await {
                Ok(Ok(_)) => report.say("well ", &format!("{} {upstream} takes connections", service.name)),
                Ok(Err(error)) => report.say("WRONG", &format!("{} {upstream} takes no connection: {error}", service.name)),
                Err(_) => report.say("WRONG", &format!("{} {upstream} takes no connection in time", service.name)),
            }
        }
    }
    (report.well, report.text)
}

fn certificate(report: &mut Report, loaded: &Loaded) {
    let chain = elph_shell::tls::certificates(&loaded.config.listen.certificate_file).unwrap_or_default();
    let Some(expiry) = chain.first().and_then(elph_shell::tls::expiry) else { return };
    let Ok(at) = jiff::Timestamp::from_second(expiry) else { return };
    let left = expiry.saturating_sub(jiff::Timestamp::now().as_second());
    match left {
        ..=0 => report.say("WRONG", &format!("the certificate has expired at {at}")),
        1..SOON_S => report.say("know ", &format!("the certificate expires soon, at {at}")),
        _ => report.say("well ", &format!("the certificate is valid until {at}")),
    }
}

struct Report {
    well: bool,
    text: String,
}

impl Report {
    fn say(&mut self, mark: &str, text: &str) {
        self.well &= mark != "WRONG";
        let _ = writeln!(self.text, "{mark} {text}");
    }
}
