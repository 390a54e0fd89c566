//! Active checks: every copy is asked for its health; what has failed often enough is taken out, what has answered often enough comes
//! back. Names are resolved with each check, so a copy may move.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Checks, Service, Upstream},
    metrics::{Metrics, labels},
    render::{Copy, Placed},
};

/// How long the first look-up of all names may hold up the start.
const FIRST_LOOK_UP: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// None: not known yet, taken as well.
    well: Option<bool>,
    good: u32,
    bad: u32,
}

/// What is known of every copy.
#[derive(Clone, Default)]
pub(crate) struct Health {
    copies: Arc<Mutex<BTreeMap<(String, Upstream), Known>>>,
    /// Something that the configuration depends on has changed.
    pub(crate) changed: Arc<Notify>,
}

impl Health {
    /// The services in their places.
    pub(crate) fn placed(&self, services: &[Service]) -> Vec<Placed> {
        let copies = self.copies.lock();
        let copy = |service: &Service, upstream: &Upstream| {
            let known = copies.get(&(service.name.clone(), upstream.clone()));
            Copy {
                name: upstream.to_string(),
                addresses: known.map(|known| known.addresses.clone()).unwrap_or_default(),
                well: known.and_then(|known| known.well).unwrap_or(true),
            }
        };
        let placed = |service: &Service| Placed {
            service: service.clone(),
            copies: service.upstreams.iter().map(|upstream| copy(service, upstream)).collect(),
        };
        services.iter().map(placed).collect()
    }

    /// Services without a copy that is well, by name.
    pub(crate) fn down(&self, services: &[Service]) -> Vec<String> {
        let placed = self.placed(services);
        let down = placed.iter().filter(|placed| !placed.copies.iter().any(|copy| copy.well && !copy.addresses.is_empty()));
        down.map(|placed| placed.service.name.clone()).collect()
    }

    /// Resolves the names of all copies, and forgets copies that are not listed any more.
    pub(crate) async fn look_up(&self, services: &[Service]) {
        let listed: Vec<_> =
            services.iter().flat_map(|service| service.upstreams.iter().map(|u| (service.name.clone(), u.clone()))).collect();
        self.copies.lock().retain(|key, _| listed.contains(key));
        let resolved = async {
            for (name, upstream) in listed {
                let addresses = resolve(&upstream).await;
                if !addresses.is_empty() {
                    self.copies.lock().entry((name, upstream)).or_default().addresses = addresses;
                }
            }
        };
        if timeout(FIRST_LOOK_UP, resolved).await.is_err() {
            tracing::warn!("names of copies could not all be looked up in time");
        }
    }

    /// Asks every copy until `stop`.
    pub(crate) fn watch(&self, services: &[Service], checks: &Checks, metrics: &Arc<Metrics>, stop: &CancellationToken) {
        for service in services {
            for upstream in &service.upstreams {
                let asked = ask_on(self.clone(), service.clone(), upstream.clone(), checks.clone(), metrics.clone());
                let stop = stop.clone();
                tokio::spawn(async move { stop.run_until_cancelled(asked).await });
            }
        }
    }

    fn note(&self, key: &(String, Upstream), addresses: Vec<SocketAddr>, good: Option<bool>, checks: &Checks) {
        let mut copies = self.copies.lock();
        let known = copies.entry(key.clone()).or_default();
        // A resolver in trouble does not make a copy homeless.
        let moved = !addresses.is_empty() && known.addresses != addresses;
        if moved {
            known.addresses = addresses;
        }
        let before = known.well.unwrap_or(true);
        if let Some(good) = good {
            (known.good, known.bad) = if good { (known.good.saturating_add(1), 0) } else { (0, known.bad.saturating_add(1)) };
            if known.good >= checks.rise {
                known.well = Some(true);
            } else if known.bad >= checks.fall {
                known.well = Some(false);
            }
        }
        let after = known.well.unwrap_or(true);
        drop(copies);
        if before != after {
            tracing::warn!(service = key.0, copy = %key.1, well = after, "a copy has changed");
        }
        if moved || before != after {
            self.changed.notify_one();
        }
    }
}

async fn ask_on(health: Health, service: Service, upstream: Upstream, checks: Checks, metrics: Arc<Metrics>) {
    let key = (service.name.clone(), upstream.clone());
    let name = upstream.to_string();
    loop {
        // Not all copies of all services at the same moment.
        let jitter = rand::random_range(0.9..1.1);
        tokio::time::sleep(checks.interval.0.mul_f64(jitter)).await;
        let addresses = timeout(checks.timeout.0, resolve(&upstream)).await.unwrap_or_default();
        let Some(path) = service.check_path.as_deref().filter(|_| checks.enabled) else {
            health.note(&key, addresses, None, &checks);
            continue;
        };
        let mut good = false;
        for address in &addresses {
            let asked = SocketAddr::new(address.ip(), service.check_port.unwrap_or(address.port()));
            good |= timeout(checks.timeout.0, answers(asked, &name, path)).await.unwrap_or(false);
        }
        let outcome = if good { "good" } else { "bad" };
        metrics.checks.get_or_create(&labels([("service", &service.name), ("copy", &name), ("outcome", outcome)])).inc();
        health.note(&key, addresses, Some(good), &checks);
        let well = health.copies.lock().get(&key).and_then(|known| known.well).unwrap_or(true);
        metrics.upstream_up.get_or_create(&labels([("service", &service.name), ("copy", &name)])).set(i64::from(well));
    }
}

async fn resolve(upstream: &Upstream) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host((upstream.host.as_str(), upstream.port)).await;
    let mut addresses: Vec<SocketAddr> = found.map(Iterator::collect).unwrap_or_default();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

async fn answers(address: SocketAddr, host: &str, path: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else { return false };
    let request = http::Request::get(path).header("host", host).header("connection", "close").body(Empty::<bytes::Bytes>::new());
    let Ok(request) = request else { return false };
    // The sender goes with its answer, and the connection with the sender.
    let asked = async move { sender.send_request(request).await.is_ok_and(|answer| answer.status().is_success()) };
    let (good, _) = tokio::join!(asked, connection);
    good
}
