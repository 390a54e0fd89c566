//! A session without a WebSocket: its path is [UNKNOWN] to the dialect. Commands are POSTed with the session's cookie, there are
//! no events, and nothing is known that could be called safely to see whether the session lives: its expiry shows at the next command.

use bytes::Bytes;
use ecss_switch::{
    CommandError,
    connect::Endpoint,
    link::{LinkCounters, LinkKind, Way},
    nodes::Nodes,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use http_body_util::Full;
use tokio::time::Instant;

use crate::{
    client::Waiter,
    driver::{Driver, End, Probe, now, until},
    http::{Cookie, ExchangeError, Reply, exchange, path, post},
    session::{Queued, Received, Verdict},
    shape::{Answer, Outcome, read_answer, read_outcome, request_tree},
    tree::{from_xml, to_xml},
};

/// A command and how its exchange ended.
type Finished = (Queued<Waiter>, Result<Reply, ExchangeError>);

impl Driver {
    /// Runs the session until it ends.
    pub(crate) async fn drive_http(&mut self, endpoint: &Endpoint, cookie: &Cookie, nodes: &mut Nodes) -> End {
        self.session.opened_without_socket();
        let mut probe = Probe::default();
        let mut under_way = FuturesUnordered::new();
        let mut unreachable: Option<String> = None;
        loop {
            self.settle();
            let verdict = self.session.timers(now());
            match verdict {
                // each exchange ends by its deadline, so this waits no longer than one command may take
                Verdict::Relogin if under_way.is_empty() => return End::Relogin,
                Verdict::Alive | Verdict::Relogin => {}
                Verdict::Lost(cause) => return End::Lost(cause.to_owned()),
            }
            if let Some(cause) = unreachable.take_if(|_| under_way.is_empty()) {
                return End::Lost(cause);
            }
            while unreachable.is_none() && under_way.len() < self.config.window.max(1) {
                let Some(queued) = self.session.take_queued(now()) else { break };
                match self.request(endpoint, cookie, &queued) {
                    Ok(request) => {
                        let (connect, within) = (self.connect.clone(), self.config.connect_timeout);
                        let endpoint = endpoint.clone();
                        let deadline = Instant::from_std(queued.command.deadline);
                        under_way.push(Box::pin(async move {
                            let reply = exchange(&*connect, &endpoint, within, deadline, request).await;
                            (queued, reply)
                        }));
                    }
                    Err(error) => self.session.settle(queued.command.waiter, Err(error)),
                }
            }
            probe.start(nodes, self);
            let quiet = under_way.is_empty() && self.session.is_idle() && self.commands.is_empty();
            if quiet && nodes.fail_back_due(now()).is_some() {
                return End::FailBack;
            }
            // an expired session only waits for the exchanges under way
            let timer = self.session.next_wakeup(false).filter(|_| verdict == Verdict::Alive);
            let wakeup = [timer, nodes.probe_at()].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return End::Shutdown,
                Some(finished) = under_way.next(), if !under_way.is_empty() => {
                    if let Some(cause) = self.finish(finished) {
                        unreachable = Some(cause);
                    }
                }
                Some(command) = self.commands.recv(), if self.session.has_room() => self.session.submit(command),
                (endpoint, reachable) = probe.result() => nodes.probe_result(&endpoint, reachable, now()),
                () = until(wakeup.map(Instant::from_std)) => {}
            }
        }
    }

    fn request(&self, endpoint: &Endpoint, cookie: &Cookie, queued: &Queued<Waiter>) -> Result<Request<Full<Bytes>>, CommandError> {
        let operation = queued.command.operation;
        let shape = self.dialect.operations.get(&operation).ok_or(CommandError::Unnamed { operation })?;
        let places = [("{domain}", self.config.domain.as_str()), ("{service}", &*shape.service), ("{command}", &*shape.name)];
        let path = path(&self.dialect.call_api.command_path, &places);
        let tree = request_tree(shape, &queued.command.fields);
        let request = post(endpoint, &path, Some(cookie), &tree).map_err(CommandError::not_sent)?;
        LinkCounters::add(&self.counters.messages_sent);
        if let Some(tap) = &self.tap {
            tap.message(LinkKind::CallApi, Way::Sent, &format!("POST {path}"), &to_xml(&tree));
        }
        Ok(request)
    }

    /// Ends a command by its answer; says why if the node cannot be reached.
    fn finish(&mut self, (queued, reply): Finished) -> Option<String> {
        let operation = queued.command.operation;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                let gone = match &error {
                    ExchangeError::NotSent(cause) => Some(cause.clone()),
                    ExchangeError::Unknown(_) => None,
                };
                self.session.settle(queued.command.waiter, Err(error.into()));
                return gone;
            }
        };
        LinkCounters::add(&self.counters.messages_received);
        let status = reply.status.to_string();
        if let Some(tap) = &self.tap {
            tap.message(LinkKind::CallApi, Way::Received, &status, &String::from_utf8_lossy(&reply.body));
        }
        let root = from_xml(&reply.body).ok();
        let result: Result<Outcome, CommandError> = match read_answer(&status, root.as_ref().map(std::slice::from_ref), &self.dialect) {
            Answer::Done(response) => match self.dialect.operations.get(&operation) {
                Some(shape) => read_outcome(operation, shape, response, &self.dialect),
                None => Err(CommandError::Unnamed { operation }),
            },
            Answer::Failed(error) => Err(error),
            Answer::SessionExpired => {
                self.session.expired(queued, now());
                return None;
            }
        };
        if let Err(CommandError::BadAnswer { cause }) = &result {
            LinkCounters::add(&self.counters.messages_bad);
            let complaint = Some(("answer", cause.clone()));
            self.deliver(Received { complaint, ..Received::default() });
        }
        self.session.settle(queued.command.waiter, result);
        None
    }
}
