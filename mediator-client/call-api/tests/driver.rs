//! The driver against a small server on the real loopback network.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed test is a failed test")]

mod support;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use ecss_switch::{
    CommandError, ConferenceCommand, LinkEvent, Operation, SwitchConferenceId,
    connect::{BoxedIo, Connect, Connecting, Endpoint},
    link::LinkState,
};
use support::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[tokio::test]
async fn a_command_is_answered_and_events_arrive() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    let outcome = client.api.execute_call(make()).await.unwrap();
    assert_eq!(outcome.call.unwrap().as_str(), "c1");
    assert_eq!(node.script(|script| script.executed.clone()), ["call/call_make"]);
    assert_eq!(client.api.list_calls().await.unwrap().len(), 2);
    node.push_leg("c1", "talking");
    assert!(matches!(client.event().await, LinkEvent::Seen(_)));
    client.end().await;
}

#[tokio::test]
async fn many_commands_at_a_time_get_their_own_answers() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    let all = (0..500).map(|_| {
        let api = client.api.clone();
        async move { api.execute_call(make()).await }
    });
    for outcome in futures_util::future::join_all(all).await {
        outcome.unwrap();
    }
    assert_eq!(node.executed(), 500);
    assert_eq!(client.api.counters().answers_unexpected.load(Relaxed), 0);
    client.end().await;
}

#[tokio::test]
async fn an_operation_without_a_name_never_touches_the_network() {
    let mut dialect = sim();
    dialect.operations.remove(&Operation::ConferenceEnd);
    dialect.operations.remove(&Operation::CallList);
    let client = Client::start(config(vec![Endpoint { host: "127.0.0.1".into(), port: 1 }]), dialect, Tcp);
    let end = ConferenceCommand::End(SwitchConferenceId::parse("7").unwrap());
    assert_eq!(client.api.execute_conference(end).await, Err(CommandError::Unnamed { operation: Operation::ConferenceEnd }));
    assert_eq!(client.api.list_calls().await, Err(CommandError::Unnamed { operation: Operation::CallList }));
    client.end().await;
}

#[tokio::test]
async fn bad_input_is_counted_reported_as_a_gap_and_survived() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    for text in ["", "garbage", "0100000000200000", "01000000001900012", &"x".repeat(100_000)] {
        node.push(Push::Text(text.to_owned()));
    }
    node.push(Push::Binary(vec![0xff, 0xfe]));
    node.push_event("call/conversations_event", r#"[{"_name":"conversations_event","_content":[{"_name":"leg"}]}]"#);
    client.wait_for(|event| matches!(event, LinkEvent::Gap { .. })).await;
    // the last of a burst is followed by a gap of its own
    client.wait_for(|event| matches!(event, LinkEvent::Gap { .. })).await;
    node.push_event("call/nobody_knows", r#"[{"_name":"nobody_knows"}]"#);
    node.push_leg("c9", "alerting");
    assert!(matches!(client.event().await, LinkEvent::Seen(_)));
    let counters = client.api.counters();
    assert_eq!((counters.messages_bad.load(Relaxed), counters.sessions_opened.load(Relaxed)), (8, 1));
    client.end().await;
}

#[tokio::test]
async fn an_oversized_message_costs_the_connection_not_the_memory() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    node.push(Push::Text("x".repeat(9 * 1024 * 1024)));
    client.down().await;
    client.up().await;
    assert_eq!(client.api.execute_call(make()).await.map(|_| ()), Ok(()));
    client.end().await;
}

#[tokio::test]
async fn an_expired_session_is_opened_again_and_the_command_executed_once() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    for round in 1..=5 {
        node.set(Behaviour::Expire);
        client.api.execute_call(make()).await.unwrap();
        assert_eq!(node.executed(), round);
    }
    client.up().await;
    assert_eq!(client.api.counters().relogins.load(Relaxed) + client.api.counters().sessions_lost.load(Relaxed), 5);
    client.end().await;
}

#[tokio::test]
async fn without_a_websocket_commands_go_over_http_and_expiry_is_noticed() {
    let node = Node::new("a");
    let mut dialect = sim();
    dialect.call_api.websocket_path = None;
    let mut client = Client::start(config(vec![node.listen().await]), dialect, Tcp);
    client.up().await;
    assert_eq!(client.api.execute_call(make()).await.unwrap().leg.unwrap().as_str(), "l1");
    assert_eq!(node.script(|script| script.executed.clone()), ["POST /biysk.local/service/call/call_make HTTP/1.1"]);
    node.set(Behaviour::Expire);
    client.api.execute_call(make()).await.unwrap();
    assert_eq!((node.executed(), node.script(|script| script.logins)), (2, 2));
    node.set(Behaviour::Cut);
    let error = client.api.execute_call(make()).await.unwrap_err();
    assert!(matches!(error, CommandError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(node.executed(), 3);
    client.end().await;
}

#[tokio::test]
async fn an_unreachable_node_without_a_websocket_is_not_sent_and_seen_as_down() {
    let node = Node::new("a");
    let mut dialect = sim();
    dialect.call_api.websocket_path = None;
    let gate = Gate::default();
    let mut client = Client::start(config(vec![node.listen().await]), dialect, gate.clone());
    client.up().await;
    gate.0.lock().unwrap().closed = true;
    let error = client.api.execute_call(make()).await.unwrap_err();
    assert!(matches!(error, CommandError::NotSent { .. }), "{error:?}");
    client.down().await;
    gate.0.lock().unwrap().closed = false;
    client.up().await;
    client.end().await;
}

#[tokio::test]
async fn a_refused_login_is_told_without_secrets() {
    let node = Node::new("a");
    node.script(|script| script.refuse_login = true);
    let client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    let mut status = client.api.status();
    let status = tokio::time::timeout(Duration::from_secs(10), status.wait_for(|status| status.last_error.is_some()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    let error = status.last_error.unwrap();
    assert!(error.contains("login") && !error.contains(PASSWORD), "{error}");
    assert_eq!(status.state, LinkState::Down);
    assert!(matches!(client.api.execute_call(make()).await, Err(CommandError::NotSent { .. })));
    node.script(|script| script.refuse_login = false);
    let mut client = client;
    client.up().await;
    client.end().await;
}

#[tokio::test]
async fn password_and_cookie_are_in_no_recording_and_no_debug_text() {
    let node = Node::new("a");
    let tap = Arc::new(Everything::default());
    let endpoint = node.listen().await;
    let text = format!("{:?}", config(vec![endpoint.clone()]));
    let mut client = Client::start_with(config(vec![endpoint]), sim(), Tcp, Some(tap.clone()));
    client.up().await;
    client.api.execute_call(make()).await.unwrap();
    let recorded = tap.0.lock().unwrap().join("\n");
    for needed in ["POST /biysk.local/service/cc/arm/login", "password=\"***\"", "call/call_make", "\"c1\""] {
        assert!(recorded.contains(needed), "{needed} in {recorded}");
    }
    for secret in [PASSWORD, "a-session-1"] {
        assert!(!recorded.contains(secret) && !text.contains(secret) && !format!("{:?}", client.api).contains(secret));
    }
    client.end().await;
}

#[tokio::test]
async fn the_websocket_is_closed_properly_at_shutdown_and_nobody_waits_for_ever() {
    let node = Node::new("a");
    let mut client = Client::start(config(vec![node.listen().await]), sim(), Tcp);
    client.up().await;
    node.set(Behaviour::Silent);
    let api = client.api.clone();
    let waiting = tokio::spawn(async move { api.execute_call(make()).await });
    eventually("the command arrived", || node.executed() == 1).await;
    let api = client.api.clone();
    client.end().await;
    assert!(matches!(waiting.await.unwrap(), Err(CommandError::OutcomeUnknown { .. })));
    assert_eq!(node.script(|script| script.closed_properly), 1);
    assert!(matches!(api.execute_call(make()).await, Err(CommandError::NotSent { .. })));
}

#[tokio::test]
async fn a_session_that_is_given_up_is_logged_out_with_and_without_a_websocket() {
    for with_socket in [true, false] {
        let node = Node::new("a");
        let mut dialect = sim();
        if !with_socket {
            dialect.call_api.websocket_path = None;
        }
        let mut client = Client::start(config(vec![node.listen().await]), dialect, Tcp);
        client.up().await;
        client.end().await;
        assert_eq!(node.script(|script| (script.logins, script.logouts)), (1, 1), "with a WebSocket: {with_socket}");
    }
}

#[tokio::test]
async fn a_switch_that_never_answers_the_logout_holds_the_shutdown_up_for_a_moment_only() {
    let node = Node::new("a");
    let mut dialect = sim();
    // the script is silent about any path that it does not know
    dialect.call_api.logout.as_mut().unwrap().path = "/{domain}/elsewhere".into();
    let mut client = Client::start(config(vec![node.listen().await]), dialect, Tcp);
    client.up().await;
    node.set(Behaviour::Silent);
    let began = std::time::Instant::now();
    client.end().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(node.script(|script| script.executed.clone()), ["POST /biysk.local/elsewhere HTTP/1.1"]);
}

#[tokio::test]
async fn a_session_whose_websocket_cannot_be_opened_is_not_left_behind() {
    let node = Node::new("a");
    let mut dialect = sim();
    dialect.call_api.websocket_path = Some("/{domain}/elsewhere".into());
    let listen = node.listen().await;
    node.script(|script| script.no_sockets = true);
    let client = Client::start(config(vec![listen]), dialect, Tcp);
    eventually("two sessions were opened and closed", || node.script(|script| script.logouts) >= 2).await;
    client.end().await;
}

#[tokio::test]
async fn a_frame_cut_in_the_middle_of_its_writing_is_unknown_and_those_behind_it_are_not_sent() {
    let node = Node::new("a");
    let gate = Gate::default();
    let mut client = Client::start(config(vec![node.listen().await]), sim(), gate.clone());
    client.up().await;
    gate.0.lock().unwrap().budget = Some(40);
    let spawn = |api: ecss_call_api::CallApi| tokio::spawn(async move { api.execute_call(make()).await });
    let first = spawn(client.api.clone());
    eventually("the first command is half written", || gate.0.lock().unwrap().budget == Some(0)).await;
    let behind = [spawn(client.api.clone()), spawn(client.api.clone())];
    // one thread runs them all: after a few turns both commands have reached the link, which waits for the socket
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    gate.0.lock().unwrap().fail();
    let first = first.await.unwrap().unwrap_err();
    assert!(matches!(first, CommandError::OutcomeUnknown { .. }), "{first:?}");
    for command in behind {
        let error = command.await.unwrap().unwrap_err();
        assert!(matches!(error, CommandError::NotSent { .. }), "{error:?}");
    }
    assert_eq!(node.executed(), 0);
    client.down().await;
    client.end().await;
}

/// The real network through a gate that can be closed, or let only so many octets through.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
struct GateState {
    closed: bool,
    budget: Option<usize>,
    failed: bool,
    wakers: Vec<Waker>,
}

impl GateState {
    fn fail(&mut self) {
        self.failed = true;
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Connect for Gate {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            {
                let mut state = self.0.lock().unwrap();
                if state.closed {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                (state.budget, state.failed) = (None, false);
            }
            let stream = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            Ok(Box::new(Gated { stream, gate: self.clone() }) as BoxedIo)
        })
    }
}

struct Gated {
    stream: tokio::net::TcpStream,
    gate: Gate,
}

impl AsyncRead for Gated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut state = this.gate.0.lock().unwrap();
        if state.failed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let part = match state.budget {
            None => buf,
            Some(0) => {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            Some(left) => &buf[..left.min(buf.len())],
        };
        let written = std::task::ready!(Pin::new(&mut this.stream).poll_write(cx, part))?;
        if let Some(left) = &mut state.budget {
            *left -= written;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
