//! The driver against a small mediator on loopback: sessions, faults, secrets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed helper is a failed test")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use common::{Fault, Mediator, PASSWORD, config, sink, until};
use ecss_switch::{
    Alias, CommandError, Dialect, Domain, Operation, RefusalReason,
    connect::{TcpConnect, client_tls},
    event::LinkEvent,
    link::{LinkKind, LinkState, Tap, Way},
};
use ecss_terminal::{Authentication, Command, Terminal, TerminalConfig, xml::Element};
use secrecy::SecretString;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Tap for Recorder {
    fn message(&self, _: LinkKind, way: Way, head: &str, body: &str) {
        self.0.lock().unwrap().push(format!("{way:?} {head} {body}"));
    }
}

struct Setup {
    terminal: Terminal,
    mediator: Mediator,
    events: mpsc::Receiver<LinkEvent>,
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Setup {
    async fn new(mediator: Mediator, change: impl FnOnce(&mut TerminalConfig)) -> Self {
        Self::speaking("sim", mediator, change).await
    }

    async fn speaking(dialect: &str, mediator: Mediator, change: impl FnOnce(&mut TerminalConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(&[&listener.local_addr().unwrap().to_string()]);
        change(&mut config);
        let served = mediator.clone();
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(served.clone().serve(stream));
            }
        });
        let (sink, events) = sink();
        let recorder = Arc::new(Recorder::default());
        let shutdown = CancellationToken::new();
        let dialect = Arc::new(Dialect::built_in(dialect).unwrap());
        let connect = Arc::new(TcpConnect::plain(Duration::from_secs(5)));
        let (terminal, task) = Terminal::start(config, dialect, connect, sink, Some(recorder.clone()), shutdown.clone());
        Self { terminal, mediator, events, recorder, shutdown, task, server }
    }

    async fn up() -> Self {
        let setup = Self::new(Mediator::default(), |_| {}).await;
        until(&mut setup.terminal.status(), LinkState::Up, "").await;
        setup
    }

    async fn end(self) -> Vec<String> {
        self.shutdown.cancel();
        self.task.await.unwrap();
        assert_eq!(self.mediator.sessions(), 0, "no session is left behind");
        self.server.abort();
        let recorded = self.recorder.0.lock().unwrap().clone();
        for line in &recorded {
            // The cookie's name is what a dialect needs; its value is secret.
            let cookie = line.replace("ECSSSESSION=***", "").contains("ECSSSESSION");
            assert!(!cookie && !line.contains("Geheim") && !line.contains("sp-secret"), "{line}");
        }
        recorded
    }

    async fn change(&self) -> Result<(), CommandError> {
        self.terminal.run(Command::change("some_change", Element::new("request"))).await.map(drop)
    }
}

fn domain() -> Domain {
    Domain::parse("d.local").unwrap()
}

#[tokio::test]
async fn it_logs_in_runs_typed_commands_and_logs_out() {
    let mut setup = Setup::up().await;
    assert_eq!(setup.events.recv().await, Some(LinkEvent::Up));
    assert_eq!(setup.terminal.settings().version, "3.10.0.36");
    let terminal = &setup.terminal;
    let aliases = terminal.alias_list(&domain(), None).await.unwrap();
    assert_eq!(aliases.len(), 1, "the second one has no valid number and is counted");
    assert_eq!(terminal.counters().messages_bad.load(Ordering::Relaxed), 1);
    assert_eq!((aliases[0].address.as_str(), aliases[0].properties["owner"].as_str()), ("1001", "x"));
    assert_eq!(terminal.rooms(&domain()).await.unwrap()[0].description.as_deref(), Some("for_energo"));
    terminal.check_connection(Some(&domain())).await.unwrap();
    let card = terminal.subscriber_card(&domain(), &Alias::parse("1001").unwrap()).await.unwrap();
    assert_eq!((card.registrations.len(), card.calls.len(), card.regime.unwrap().private_out), (1, 1, Some(false)));
    let accepted = terminal.authenticate(&domain(), "1001", &SecretString::from(PASSWORD.to_owned())).await.unwrap();
    assert_eq!(accepted, Authentication::Accepted { alias: Some(Alias::parse("1001").unwrap()) });
    assert!(setup.mediator.bodies()[0].contains(r#"xs:noNamespaceSchemaLocation="alias_list.xsd""#));
    let recorded = setup.end().await;
    assert!(recorded.iter().any(|line| line.contains(r#"password="***""#) && line.contains("/system/login")));
    assert!(recorded.iter().any(|line| line.contains(r#"session="***""#)));
}

#[tokio::test]
async fn eight_changes_in_flight_when_the_session_expires_are_each_made_once() {
    let mediator = Mediator::slow(Duration::from_millis(5));
    let setup = Setup::new(mediator, |_| {}).await;
    until(&mut setup.terminal.status(), LinkState::Up, "").await;
    for round in 1..=5 {
        setup.mediator.expire_sessions();
        let results = futures(24, || setup.change()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(setup.mediator.executed("some_change"), 24 * round);
    }
    assert_eq!(setup.terminal.counters().relogins.load(Ordering::Relaxed), 5);
    assert_eq!(setup.mediator.logins(), 6);
    setup.end().await;
}

async fn futures<'a, F: Future<Output = Result<(), CommandError>> + 'a>(
    count: usize,
    make: impl Fn() -> F,
) -> Vec<Result<(), CommandError>> {
    let mut all: Vec<_> = (0..count).map(|_| Box::pin(make())).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|cx| {
        all.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results
}

#[tokio::test]
async fn a_link_cut_after_the_write_leaves_a_change_unknown_and_a_question_is_asked_again() {
    let setup = Setup::up().await;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Truncated] {
        let before = setup.mediator.executed("some_change");
        setup.mediator.fault(fault);
        let error = setup.change().await.unwrap_err();
        assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{fault:?}: {error}");
        assert!(setup.mediator.executed("some_change") <= before + 1, "a change is not sent twice");
        setup.mediator.fault(fault);
        setup.terminal.rooms(&domain()).await.unwrap();
    }
    assert_eq!(setup.mediator.logins(), 1, "the session survives");
    setup.end().await;
}

#[tokio::test]
async fn bad_answers_are_counted_and_the_link_survives() {
    let setup = Setup::up().await;
    let counters = setup.terminal.counters();
    for (fault, bad) in [(Fault::WrongId, 1), (Fault::Garbage, 2), (Fault::Oversized, 3)] {
        setup.mediator.fault(fault);
        let error = setup.change().await.unwrap_err();
        assert!(matches!(error, CommandError::BadAnswer { .. }), "{fault:?}: {error}");
        assert_eq!(counters.messages_bad.load(Ordering::Relaxed), bad);
        setup.change().await.unwrap();
    }
    assert_eq!(counters.answers_unexpected.load(Ordering::Relaxed), 1);
    setup.mediator.fault(Fault::Refuse);
    let refused = setup.change().await.unwrap_err();
    assert!(matches!(refused, CommandError::Refused { reason: RefusalReason::LicenceExhausted, .. }), "{refused}");
    assert_eq!(setup.terminal.status().borrow().sessions, 1);
    setup.end().await;
}

#[tokio::test]
async fn a_doubled_answer_is_never_taken_for_the_next_command_s() {
    let setup = Setup::up().await;
    for _ in 0..20 {
        setup.mediator.fault(Fault::Twice);
        setup.change().await.unwrap();
        // Either the second copy was seen in time, or it shows by its id; it is never believed.
        match setup.terminal.rooms(&domain()).await {
            Ok(rooms) => assert_eq!(rooms.len(), 1),
            Err(error) => assert!(matches!(error, CommandError::BadAnswer { .. }), "{error}"),
        }
        assert_eq!(setup.terminal.rooms(&domain()).await.unwrap().len(), 1);
    }
    setup.end().await;
}

#[tokio::test]
async fn progress_is_followed_and_a_question_is_confirmed_only_where_the_caller_allows() {
    let setup = Setup::up().await;
    setup.mediator.fault(Fault::Progress(3));
    setup.change().await.unwrap();
    assert_eq!(setup.mediator.executed("some_change"), 1);
    setup.mediator.fault(Fault::Question);
    let error = setup.terminal.cocon_del_user("u", false).await.unwrap_err();
    assert_eq!(error, CommandError::ConfirmationRequired { question: "really?".into() });
    setup.terminal.cocon_del_user("u", true).await.unwrap();
    assert_eq!(setup.mediator.executed("cocon_del_user"), 1);
    setup.end().await;
}

#[tokio::test]
async fn a_silent_command_ends_in_its_time_and_others_go_on() {
    let setup = Setup::new(Mediator::default(), |config| config.command_timeout = Duration::from_millis(300)).await;
    until(&mut setup.terminal.status(), LinkState::Up, "").await;
    setup.mediator.fault(Fault::Silence);
    assert!(matches!(setup.change().await, Err(CommandError::OutcomeUnknown { .. })));
    setup.change().await.unwrap();
    assert_eq!(setup.terminal.status().borrow().sessions, 1);
    setup.end().await;
}

#[tokio::test]
async fn without_a_switch_commands_are_not_sent_and_fail_soon() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let setup = Setup::new(Mediator::default(), |config| config.nodes = common::config(&[&free.to_string()]).nodes).await;
    let error = tokio::time::timeout(Duration::from_secs(5), setup.change()).await.unwrap().unwrap_err();
    assert!(matches!(error, CommandError::NotSent { .. }), "{error}");
    setup.end().await;
}

#[tokio::test]
async fn a_refused_login_is_reported_without_the_password() {
    let mediator = Mediator::default();
    mediator.refuse_logins(true);
    let setup = Setup::new(mediator, |_| {}).await;
    let error = setup.change().await.unwrap_err();
    assert!(error.to_string().contains("refused with status 404") && !error.to_string().contains("Geheim"), "{error}");
    let mut status = setup.terminal.status();
    until(&mut status, LinkState::Down, "").await;
    let last = status.borrow().last_error.clone().unwrap();
    assert!(last.contains("***") && !last.contains("Geheim"), "{last}");
    setup.mediator.refuse_logins(false);
    until(&mut status, LinkState::Up, "").await;
    setup.change().await.unwrap();
    assert!(!format!("{:?}", config(&["a:1"])).contains("Geheim"));
    setup.end().await;
}

#[tokio::test]
async fn an_operation_without_a_terminal_command_is_unnamed() {
    let setup = Setup::up().await;
    let error = setup.terminal.operation(Operation::ConferenceEnd, &BTreeMap::new()).await.unwrap_err();
    assert_eq!(error, CommandError::Unnamed { operation: Operation::ConferenceEnd });
    setup.end().await;
}

#[tokio::test]
async fn the_documented_dialect_keeps_the_session_alive_with_a_read_only_command_and_every_cookie() {
    let setup = Setup::speaking("documented", Mediator::default(), |config| config.half_open_after = Duration::from_millis(300)).await;
    let alive = async {
        while setup.mediator.executed("check_connection") < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), alive).await.unwrap();
    setup.mediator.expire_sessions();
    setup.change().await.unwrap();
    assert_eq!(setup.terminal.counters().relogins.load(Ordering::Relaxed), 1);
    // It names no logout: the session is left to the switch's own time-out.
    setup.mediator.expire_sessions();
    setup.server.abort();
    setup.shutdown.cancel();
    setup.task.await.unwrap();
}

#[tokio::test]
async fn it_speaks_tls_to_a_switch_with_an_own_authority_and_to_no_other() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let mediator = Mediator::default();
    let served = mediator.clone();
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, mediator) = (acceptor.clone(), served.clone());
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    mediator.serve(stream).await;
                }
            });
        }
    });
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert;
    for (authority, trusted) in [(cert.pem(), true), (other.pem(), false)] {
        let connect = TcpConnect::tls(client_tls(Some(authority.as_bytes())).unwrap(), Duration::from_secs(5));
        let (sink, _events) = sink();
        let shutdown = CancellationToken::new();
        let dialect = Arc::new(Dialect::built_in("sim").unwrap());
        let (terminal, task) = Terminal::start(config(&[&node]), dialect, Arc::new(connect), sink, None, shutdown.clone());
        let rooms = terminal.rooms(&domain()).await;
        assert_eq!(rooms.is_ok(), trusted, "{rooms:?}");
        assert!(trusted || matches!(rooms, Err(CommandError::NotSent { .. })));
        shutdown.cancel();
        task.await.unwrap();
    }
    assert_eq!((mediator.logins(), mediator.sessions()), (1, 0));
    server.abort();
}
