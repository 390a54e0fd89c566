//! TRIAL 7: readiness is the real link's, never a 200 over a dead one.

use std::sync::Arc;

use ecss_switch::link::{LinkCounters, LinkKind, LinkState, LinkStatus};
use elph_agent::{
    health::{Link, Links, serve},
    telemetry::metrics::Metrics,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::support::get;

fn link(kind: LinkKind, required: bool) -> (watch::Sender<LinkStatus>, Link) {
    let (sender, status) = watch::channel(LinkStatus::new("ecss1:9999".into()));
    let counters = Arc::new(LinkCounters::default());
    LinkCounters::add(&counters.failovers);
    (sender, Link { kind, label: kind.to_string(), required, status, counters })
}

#[tokio::test(flavor = "multi_thread")]
async fn trial_7_readiness_follows_the_terminal_link_and_says_why_not() {
    let links = Arc::new(Links::default());
    let metrics = Arc::new(Metrics::new(links.clone()));
    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, links.clone(), metrics, draining.clone(), stop.clone()));
    let ask = |path: &'static str| async move { tokio::task::spawn_blocking(move || get(address, path)).await.unwrap() };

    assert_eq!(ask("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(ask("/readyz").await, (503, r#"{"ready":false,"reasons":[{"link":"terminal","state":"starting"}]}"#.to_owned()));

    let (terminal, entry) = link(LinkKind::Terminal, true);
    links.add(entry);
    let (_call_api, entry) = link(LinkKind::CallApi, false);
    links.add(entry);
    let (csta, entry) = link(LinkKind::Csta, true);
    links.add(entry);
    terminal.send_modify(|status| {
        status.state = LinkState::Down;
        status.last_error = Some("connection refused".into());
    });
    csta.send_modify(|status| status.state = LinkState::Up);
    let (status, body) = ask("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body["reasons"].as_array().unwrap().len()), (503, 1), "{body}");
    let reason = &body["reasons"][0];
    assert_eq!((&reason["link"], &reason["state"]), (&"terminal".into(), &"down".into()));
    assert_eq!((&reason["node"], &reason["last_error"]), (&"ecss1:9999".into(), &"connection refused".into()));
    assert!(reason["since"].as_str().unwrap().ends_with('Z'));

    terminal.send_modify(|status| status.state = LinkState::Up);
    assert_eq!(ask("/readyz").await, (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
    csta.send_modify(|status| status.state = LinkState::Connecting);
    assert_eq!(ask("/readyz").await.0, 503);
    csta.send_modify(|status| status.state = LinkState::Up);

    let (status, text) = ask("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("elph_agent_link_up{link=\"terminal\",node=\"ecss1:9999\"} 1"), "{text}");
    assert!(text.contains("elph_agent_link_up{link=\"call_api\",node=\"ecss1:9999\"} 0"), "{text}");
    assert!(text.contains("elph_agent_link_failovers_total{link=\"csta\"} 1"), "{text}");

    drop(terminal);
    let (status, body) = ask("/readyz").await;
    assert!(status == 503 && body.contains("the link's driver has ended"), "{body}");

    draining.cancel();
    assert!(ask("/readyz").await.1.contains("draining"));
    assert_eq!(ask("/healthz").await.0, 200);
    stop.cancel();
    server.await.unwrap().unwrap();
}
