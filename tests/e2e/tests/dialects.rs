//! The agent's protocols and the simulator meet in any dialect by configuration alone: the simulator's print-out is the only thing
//! that goes from one to the other.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use ecss_call_api::{CallApi, CallApiConfig};
use ecss_switch::{
    Alias, Dialect, Domain,
    connect::{Connect, Endpoint, TcpConnect},
    event::EventSink,
    link::{LinkState, LinkStatus},
};
use ecss_terminal::{AddressPattern, CallsKind, CallsQuery, SipUser, Terminal, TerminalConfig};
use ssw_sim::{Sim, SimDialect, SimOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

fn agents(dialect: &str) -> anyhow::Result<Arc<Dialect>> {
    Ok(Arc::new(Dialect::with_overrides("sim", &toml::from_str(dialect)?)?))
}

fn connect() -> Arc<dyn Connect> {
    Arc::new(TcpConnect::plain(Duration::from_secs(5)))
}

async fn up(mut status: watch::Receiver<LinkStatus>) -> anyhow::Result<()> {
    let last = status.clone();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.state == LinkState::Up)).await;
    reached.with_context(|| format!("not up: {:?}", last.borrow().last_error))?.map(drop).context("the link ended")
}

#[test]
fn the_agent_takes_every_dialect_that_the_simulator_prints() -> anyhow::Result<()> {
    for seed in (0..500).chain([u64::MAX]) {
        agents(&SimDialect::from_seed(seed).to_toml()).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn requests_whose_form_is_not_documented_are_understood_in_any_dialect() -> anyhow::Result<()> {
    for seed in [0, 1, 2, 3, u64::from(rand::random::<u32>())] {
        println!("seed {seed}");
        let sim = Sim::start(SimOptions { seed: Some(seed), aliases: 10, ..SimOptions::default() }).await?;
        let (sink, _events) = EventSink::new(64);
        let config = TerminalConfig {
            nodes: vec![Endpoint::parse(&sim.addresses().terminal.to_string())?],
            login: "admin".to_owned(),
            password: "password".to_owned().into(),
            half_open_after: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(10),
            max_parallel: 4,
            fail_back_after: Duration::from_secs(60),
            seed: Some(seed),
        };
        let shutdown = CancellationToken::new();
        let (terminal, task) = Terminal::start(config, agents(&sim.dialect_toml())?, connect(), sink, None, shutdown.clone());
        up(terminal.status()).await?;
        let domain = Domain::parse("elph.local")?;

        let aliases = terminal.alias_list(&domain, None).await?;
        assert_eq!(aliases.len(), 10);
        assert!(aliases.iter().all(|alias| alias.interface.is_some() && alias.properties.is_empty()), "{aliases:?}");
        let [caller, called, other, ..] = aliases.as_slice() else { anyhow::bail!("three aliases are needed") };
        let (caller, called, other) = (&caller.address, &called.address, &other.address);
        assert!(!terminal.alias_profile_list(&domain).await?.is_empty());
        assert_eq!(terminal.ss_packages(&domain).await?.len(), 10);
        let user = SipUser { domain: domain.clone(), address: Alias::parse("7777")?, interface: "7777@gate".to_owned(), active: true };
        terminal.sip_user_declare(&user, false).await?;
        assert_eq!(terminal.alias_list(&domain, Some(&user.address)).await?.len(), 1);

        sim.switch().make_call(domain.as_str(), caller.as_str(), called.as_str(), false)?;
        assert_eq!(terminal.subscriber_card(&domain, caller).await?.calls.len(), 1);
        let mut query = CallsQuery::of(domain.clone());
        query.addresses = vec![AddressPattern::parse(caller.as_str())?];
        query.kind = CallsKind::Active;
        assert_eq!(terminal.calls_history(&query).await?.len(), 1);
        query.kind = CallsKind::History;
        assert_eq!(terminal.calls_history(&query).await?.len(), 0, "the kind is understood");
        query.kind = CallsKind::All;
        query.addresses = vec![AddressPattern::parse(other.as_str())?];
        assert_eq!(terminal.calls_history(&query).await?.len(), 0, "the addresses are understood");
        sim.switch().create_conference(domain.as_str(), ssw_core::ConferenceRequest::default())?;
        assert_eq!(terminal.conference_list(&domain).await?.len(), 1);

        shutdown.cancel();
        task.await?;
        assert!(sim.sessions().list().is_empty(), "a session is left behind");
        sim.shutdown().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_api_session_is_logged_out_and_an_expired_one_opened_again_in_any_dialect() -> anyhow::Result<()> {
    for seed in [0, 1, 2, 3, 4, u64::from(rand::random::<u32>())] {
        println!("seed {seed}");
        let sim = Sim::start(SimOptions { seed: Some(seed), aliases: 10, ..SimOptions::default() }).await?;
        let mut overrides: toml::Table = toml::from_str(&sim.dialect_toml())?;
        for with_socket in [true, false] {
            if let Some(api) = overrides.get_mut("call_api").and_then(toml::Value::as_table_mut).filter(|_| !with_socket) {
                api.insert("websocket_path".to_owned(), String::new().into());
            }
            let dialect = Arc::new(Dialect::with_overrides("sim", &overrides)?);
            assert_eq!(dialect.call_api.websocket_path.is_some(), with_socket);
            let (sink, _events) = EventSink::new(64);
            let config = CallApiConfig {
                nodes: vec![Endpoint::parse(&sim.addresses().call_api.to_string())?],
                domain: Domain::parse("elph.local")?,
                login: "admin".to_owned(),
                password: "password".to_owned().into(),
                half_open_after: Duration::from_secs(15),
                connect_timeout: Duration::from_secs(5),
                command_timeout: Duration::from_secs(10),
                fail_back_after: Duration::from_secs(60),
                window: 8,
                seed: Some(seed),
            };
            let shutdown = CancellationToken::new();
            let (api, task) = CallApi::start(config, dialect, connect(), sink, None, shutdown.clone());
            up(api.status()).await?;
            api.list_calls().await?;
            assert_eq!(sim.sessions().list().len(), 1);
            assert_eq!(sim.sessions().expire(Some(ssw_sim::Link::CallApi), None), 1);
            let mut status = api.status();
            if with_socket {
                tokio::time::timeout(PATIENCE, status.wait_for(|status| status.sessions >= 2 && status.state == LinkState::Up)).await??;
            }
            api.list_calls().await?;
            assert_eq!(sim.sessions().list().len(), 1);
            shutdown.cancel();
            task.await?;
            assert!(sim.sessions().list().is_empty(), "a session is left behind, with a WebSocket: {with_socket}");
        }
        sim.shutdown().await;
    }
    Ok(())
}
