//! The people at their phones, and whoever pulls the switch's plug: a client of the simulator's control API.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const DEADLINE: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: u64 = 16 << 20;

/// Why a request to the simulator came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The switch says no.
    #[error("the switch refuses: {cause} ({text})")]
    Refused {
        /// Its stable word.
        cause: String,
        /// In words.
        text: String,
    },
    /// There was no proper answer.
    #[error("the simulator's control API does not answer properly: {0}")]
    Broken(String),
}

impl ControlError {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }

    /// The switch's word, if it said no.
    pub(crate) fn cause(&self) -> Option<&str> {
        match self {
            Self::Refused { cause, .. } => Some(cause),
            Self::Broken(_) => None,
        }
    }
}

type Answer = Result<Value, ControlError>;

/// The control API of one simulator and one domain.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    address: SocketAddr,
    domain: String,
}

impl Control {
    pub(crate) fn new(address: SocketAddr, domain: &str) -> Self {
        Self { address, domain: domain.to_owned() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Someone does something at a phone.
    pub(crate) async fn phone(&self, alias: &str, action: &str, body: Value) -> Answer {
        self.ask("POST", &format!("/domains/{}/phones/{alias}/{action}", self.domain), Some(body)).await
    }

    /// A member of a conference does something; the conference by the switch's own id.
    pub(crate) async fn member(&self, conference: &str, who: &str, action: &str) -> Answer {
        self.ask("POST", &format!("/domains/{}/conferences/{conference}/members/{who}/{action}", self.domain), None).await
    }

    /// Calls as the switch holds them.
    pub(crate) async fn calls(&self) -> Result<Vec<Value>, ControlError> {
        self.list("calls").await
    }

    /// Conferences as the switch holds them.
    pub(crate) async fn conferences(&self) -> Result<Vec<Value>, ControlError> {
        self.list("conferences").await
    }

    async fn list(&self, what: &str) -> Result<Vec<Value>, ControlError> {
        match self.ask("GET", &format!("/domains/{}/{what}", self.domain), None).await? {
            Value::Array(all) => Ok(all),
            _ => Err(ControlError::Broken(format!("{what} are no list"))),
        }
    }

    /// The switch's only node goes down (connections are cut, new ones closed) or comes up.
    pub(crate) async fn node(&self, up: bool) -> Answer {
        self.ask("POST", "/faults", Some(json!({ "fault": "node", "node": 0, "up": up }))).await
    }

    /// The switch restarts and keeps calls and conferences.
    pub(crate) async fn restart_with_state(&self) -> Answer {
        self.ask("POST", "/restart", Some(json!({ "keep_state": true }))).await
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let asked = tokio::time::timeout(DEADLINE, self.exchange(method, path, body)).await;
        asked.map_err(|_| ControlError::Broken(format!("no answer to {method} {path} in {} s", DEADLINE.as_secs())))?
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: ssw-sim\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.map_err(ControlError::broken)?;
        stream.write_all(format!("{head}{body}").as_bytes()).await.map_err(ControlError::broken)?;
        let mut answer = String::new();
        stream.take(LARGEST_ANSWER).read_to_string(&mut answer).await.map_err(ControlError::broken)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| ControlError::Broken("no HTTP answer".to_owned()))?;
        let value: Value = serde_json::from_str(body).map_err(ControlError::broken)?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(value),
            Some("409") => Err(ControlError::Refused { cause: text(&value, "cause"), text: text(&value, "text") }),
            _ => Err(ControlError::Broken(format!("{method} {path}: {body}"))),
        }
    }
}

/// A text field; empty if there is none.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A yes-or-no field; no if there is none.
pub(crate) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// A list field; empty if there is none.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
