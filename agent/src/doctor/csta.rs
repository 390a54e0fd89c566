//! CSTA of one domain at one node: session, renewal, a monitor and a snapshot of one device. Where one of these fails, the other
//! choices of the dialect are tried, each in a session of its own.

use std::{sync::Arc, time::Duration};

use ecss_switch::{Alias, CommandError, Dialect, connect::Endpoint, dialect::CstaLength, event::EventSink};
use mediator_client::csta::{Csta, CstaConfig};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Doctor, LEAVING, QUEUE,
    reach::speaks_tls,
    report::{Place, Setting},
    watch::{Watcher, open},
};
use crate::{config::SwitchDomain, own};

/// A short session, so that its renewal can be seen.
const DURATION: Duration = Duration::from_secs(10);
/// For an attempt in another way.
const ATTEMPT: Duration = Duration::from_secs(3);

/// How devices are written elsewhere.
const DEVICES: [&str; 4] = ["{alias}", "{alias}@{domain}", "sip:{alias}@{domain}", "tel:{alias}"];

struct Session {
    csta: Csta,
    watcher: Arc<Watcher>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Session {
    fn start(doctor: &Doctor, config: CstaConfig, dialect: Arc<Dialect>) -> Self {
        let (watcher, stop) = (Watcher::new(), CancellationToken::new());
        let (sink, _) = EventSink::new(QUEUE);
        let (csta, task) = Csta::start(config, dialect, doctor.connectors.csta.clone(), sink, Some(watcher.clone()), stop.clone());
        Self { csta, watcher, stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        let _ = timeout(LEAVING, self.task).await;
    }
}

pub(super) async fn examine(doctor: &Doctor, node: &Endpoint, domain: &SwitchDomain, alias: Option<&Alias>, place: &mut Place) {
    let config = match own::csta(&doctor.config, domain, vec![node.clone()]) {
        Some(Ok(config)) => CstaConfig { session_duration: DURATION, ..config },
        Some(Err(problem)) => return place.wrong("password", problem.what, vec![Setting::key(problem.key)]),
        None => return place.skipped("session", "the domain has no CSTA password"),
    };
    let patience = config.connect_timeout + config.command_timeout;
    let session = Session::start(doctor, config.clone(), doctor.dialect.clone());
    if let Err(cause) = open(session.csta.status(), patience).await {
        let answered = session.watcher.last(|seen| seen.received()).is_some();
        session.end().await;
        return no_session(doctor, node, domain, &config, answered, &cause, place).await;
    }
    place.well("session", format!("StartApplicationSession is answered; the session asked for lasts {DURATION:?}"));
    match alias {
        Some(alias) => device(doctor, &config, &session, alias, place).await,
        None => place.skipped("devices", "no alias is known to try with; set calls.monitored"),
    }
    let renewed = session.watcher.wait(DURATION, |seen| seen.received() && seen.body.contains("ResetApplicationSessionTimerPosResponse"));
    match renewed.await {
        Some(_) => place.well("renewal", "ResetApplicationSessionTimer is answered"),
        None if session.watcher.last(|seen| !seen.received() && seen.body.contains("ResetApplicationSessionTimer")).is_none() => {
            place.advice("renewal", "the switch gives a longer session than was asked for; its renewal was not seen", Vec::new());
        }
        None => place.wrong("renewal", "ResetApplicationSessionTimer has no answer", vec![Setting::key("switch.csta.session_duration")]),
    }
    if doctor.dialect.csta.keepalive.is_some() {
        let bad = session.csta.counters().messages_bad.load(std::sync::atomic::Ordering::Relaxed);
        let said = "sent as the dialect says; the switch goes on answering";
        if bad == 0 {
            place.well("keep-alive", said)
        } else {
            place.advice("keep-alive", format!("{said}, {bad} messages are not understood"), Vec::new())
        }
    }
    session.end().await;
}

async fn no_session(
    doctor: &Doctor,
    node: &Endpoint,
    domain: &SwitchDomain,
    config: &CstaConfig,
    answered: bool,
    cause: &str,
    place: &mut Place,
) {
    if cause.contains("refused the session") {
        let said = format!("{cause}: domain or password is wrong, or CSTA is not enabled (/api/csta/set on the switch)");
        let key = format!("switch.domains (name = \"{}\").csta.password_file", domain.name);
        return place.wrong("session", said, vec![Setting::key(key)]);
    }
    let tls = doctor.config.switch.csta.as_ref().is_some_and(|link| link.tls);
    if !tls && !answered && speaks_tls(node).await {
        let set = vec![Setting::value("switch.csta.tls", true)];
        return place.wrong("session", "the port speaks TLS", set);
    }
    let other = match doctor.dialect.csta.length {
        CstaLength::Whole => CstaLength::Body,
        CstaLength::Body => CstaLength::Whole,
    };
    let mut dialect = (*doctor.dialect).clone();
    dialect.csta.length = other;
    let attempt = Session::start(doctor, config.clone(), Arc::new(dialect));
    let outcome = open(attempt.csta.status(), ATTEMPT).await;
    attempt.end().await;
    // A refusal is an answer too: the frame was understood.
    if outcome.as_ref().is_ok() || outcome.is_err_and(|cause| cause.contains("refused the session")) {
        let word = if other == CstaLength::Body { "body" } else { "whole" };
        let said = format!("no answer ({cause}), but there is one when the length of a frame counts the {word}");
        return place.wrong("session", said, vec![Setting::dialect("csta.length", word)]);
    }
    place.wrong("session", format!("no answer that is understood: {cause}"), vec![Setting::key("switch.csta.nodes")]);
}

async fn device(doctor: &Doctor, config: &CstaConfig, session: &Session, alias: &Alias, place: &mut Place) {
    session.csta.watch_devices(vec![alias.clone()]).await;
    let mut progress = session.csta.monitored();
    // What is borrowed from the link is let go at once: it writes there.
    let settled = async { progress.wait_for(|now| now.started + now.failed > 0).await.is_ok_and(|now| now.started > 0) };
    let monitored = timeout(config.command_timeout, settled).await.unwrap_or(false);
    let snapshot = session.csta.snapshot_device(alias).await;
    if monitored {
        session.csta.watch_devices(Vec::new()).await;
        place.well("monitor", "MonitorStart and MonitorStop of one alias are answered");
    }
    match snapshot {
        Ok(legs) => place.well("snapshot", format!("SnapshotDevice of one alias: {} calls", legs.len())),
        Err(error) => {
            let refused = matches!(error, CommandError::Refused { .. });
            for form in DEVICES.iter().filter(|form| refused && **form != doctor.dialect.csta.device) {
                let mut dialect = (*doctor.dialect).clone();
                dialect.csta.device = (*form).to_owned();
                let attempt = Session::start(doctor, config.clone(), Arc::new(dialect));
                let known = match open(attempt.csta.status(), ATTEMPT).await {
                    Ok(()) => attempt.csta.snapshot_device(alias).await.is_ok(),
                    Err(_) => false,
                };
                attempt.end().await;
                if known {
                    let said = format!("the device is unknown as '{}' ({error}), and known as '{form}'", doctor.dialect.csta.device);
                    return place.wrong("device", said, vec![Setting::dialect("csta.device", *form)]);
                }
            }
            place.wrong("snapshot", error.to_string(), vec![Setting::unknown("csta.device")]);
        }
    }
    if !monitored {
        place.wrong("monitor", "MonitorStart of one alias is refused or not answered", vec![Setting::unknown("csta.device")]);
    }
}
