//! One request and its answer on a connection, and the repetition of what was surely not processed (RFC 9113 §8.7).

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{HeaderValue, Request, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use push_core::Reason;

use crate::{
    Answer,
    connection::{Connection, Kind},
    pool::{Asked, Room},
};

/// A request: its head, with an absolute address, and its body.
pub type Message = (Request<()>, Bytes);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The service surely has not processed the request.
    NotSent(Reason),
    /// It may have.
    Unknown(Reason),
    /// When there was room for it, it was not wanted any more.
    Withdrawn,
}

/// How one attempt ended without an answer.
enum Broken {
    NotProcessed(Reason),
    Lost(Reason),
}

/// Most attempts for one request; each needs a connection that failed.
const ATTEMPTS: usize = 3;

impl Asked {
    /// Sends what `make` returns once there is room: it is called for every attempt, so that it can write the time that is left. `None`
    /// withdraws the request.
    pub async fn send<M>(self, mut make: M) -> Result<Answer, Failure>
    where
        M: FnMut() -> Option<Message>,
    {
        let (class, pool) = (self.class(), self.pool());
        let mut asked = self;
        let mut attempt = 1;
        loop {
            let room = asked.room().await.map_err(Failure::NotSent)?;
            let message = make().ok_or(Failure::Withdrawn)?;
            match once(&room, message).await {
                Ok(answer) => {
                    room.answered();
                    return Ok(answer);
                }
                Err(Broken::Lost(reason)) => return Err(Failure::Unknown(reason)),
                Err(Broken::NotProcessed(reason)) if attempt >= ATTEMPTS => return Err(Failure::NotSent(reason)),
                Err(Broken::NotProcessed(_)) => attempt += 1,
            }
            drop(room);
            asked = pool.ask(class);
        }
    }
}

async fn once(room: &Room, message: Message) -> Result<Answer, Broken> {
    let (deadline, most) = room.bounds();
    let attempt = async {
        match &room.connection().kind {
            Kind::Two(sender) => over_two(room.connection(), sender.clone(), message, most).await,
            Kind::One(sender) => {
                let taken = sender.lock().take();
                let Some(taken) = taken else { return Err(Broken::NotProcessed(Reason::known("the connection is in use"))) };
                over_one(room.connection(), taken, message, most).await
            }
        }
    };
    tokio::time::timeout(deadline, attempt)
        .await
        .unwrap_or_else(|_| Err(Broken::Lost(Reason::told(&format!("no answer within {} s", deadline.as_secs_f32())))))
}

// === HTTP/2 ===

async fn over_two(connection: &Connection, mut sender: SendRequest<Bytes>, message: Message, most: usize) -> Result<Answer, Broken> {
    let (head, body) = message;
    let started = sender.send_request(head, body.is_empty()).and_then(|(response, mut stream)| {
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        Ok(response)
    });
    drop(sender);
    let response = started.map_err(|error| {
        // GOAWAY or the end of the connection was seen before this stream began.
        connection.leave();
        Broken::NotProcessed(Reason::told(&format!("the connection takes no requests: {error}")))
    })?;
    let (parts, stream) = response.await.map_err(broken)?.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body_of(stream, most).await })
}

fn broken(error: h2::Error) -> Broken {
    // A stream ends by the peer's GOAWAY only if it is above the last one that the peer looked at.
    let unprocessed = error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let reason = Reason::told(&error.to_string());
    if unprocessed { Broken::NotProcessed(reason) } else { Broken::Lost(reason) }
}

/// The body, or its beginning.
async fn body_of(mut stream: RecvStream, most: usize) -> Bytes {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(Ok(mut chunk)) = stream.data().await {
        // It fails only when the stream has ended; then there is nothing to release.
        let _released = stream.flow_control().release_capacity(chunk.len());
        chunk.truncate(most.saturating_sub(first.len().max(all.len())));
        if first.is_empty() && all.is_empty() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
        if stream.is_end_stream() || first.len().max(all.len()) >= most {
            break;
        }
    }
    if all.is_empty() { first } else { all.freeze() }
}

// === HTTP/1.1 ===

async fn over_one(
    connection: &Connection,
    mut sender: http1::SendRequest<Full<Bytes>>,
    message: Message,
    most: usize,
) -> Result<Answer, Broken> {
    let (mut head, body) = message;
    let host = head.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        head.headers_mut().insert(HOST, host);
    }
    let path = head.uri().path_and_query().map_or("/", |path| path.as_str()).parse().unwrap_or(Uri::from_static("/"));
    *head.uri_mut() = path;
    let sent = async {
        sender.ready().await.map_err(|error| Broken::NotProcessed(Reason::told(&error.to_string())))?;
        sender.try_send_request(head.map(|()| Full::new(body))).await.map_err(|mut error| {
            let reason = Reason::told(&error.error().to_string());
            if error.take_message().is_some() { Broken::NotProcessed(reason) } else { Broken::Lost(reason) }
        })
    };
    let response = match sent.await {
        Ok(response) => response,
        Err(broken) => {
            connection.leave();
            return Err(broken);
        }
    };
    let (parts, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut whole = true;
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else {
            whole = false;
            break;
        };
        let Ok(chunk) = frame.into_data() else { continue };
        body.extend_from_slice(chunk.get(..chunk.len().min(most - body.len())).unwrap_or_default());
        if body.len() >= most {
            whole = false;
            break;
        }
    }
    if whole && !sender.is_closed() {
        if let Kind::One(place) = &connection.kind {
            *place.lock() = Some(sender);
        }
    } else {
        connection.leave();
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze() })
}
