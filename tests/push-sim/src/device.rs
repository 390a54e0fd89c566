//! Who may receive: device tokens of Apple and Google, registered by tests, with what became of them.

use std::collections::HashMap;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::apple::Environment;

/// A service that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Apple's.
    Apns,
    /// Google's FCM v1.
    Fcm,
    /// Google's OAuth token endpoint.
    FcmToken,
    /// The browsers'.
    WebPush,
}

/// What became of a device token. Times are milliseconds of Unix time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Receives.
    #[default]
    Active,
    /// The app was removed: APNs 410 `Unregistered`, FCM 404 `UNREGISTERED`, web push 410.
    Unregistered {
        /// Since when, as Apple's answer says it.
        since_ms: i64,
    },
    /// APNs only: 410 `ExpiredToken`.
    Expired {
        /// Since when.
        since_ms: i64,
    },
    /// FCM only: 403 `SENDER_ID_MISMATCH`.
    OtherSender,
}

/// A device token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Whose it is: APNs or FCM.
    pub provider: Provider,
    /// The token: hexadecimal digits for APNs.
    pub token: String,
    /// APNs: the one topic that it belongs to (a PushKit token: `<bundle>.voip`); `None` = any.
    #[serde(default)]
    pub topic: Option<String>,
    /// APNs: the environment that gave it out; `None` = any.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// What became of it.
    #[serde(default)]
    pub state: DeviceState,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    apns: RwLock<HashMap<String, Device>>,
    fcm: RwLock<HashMap<String, Device>>,
}

// === impl Device ===

impl Device {
    /// An Apple device's token.
    pub fn apns(token: impl Into<String>) -> Self {
        Self { provider: Provider::Apns, token: token.into(), topic: None, environment: None, state: DeviceState::Active }
    }

    /// An FCM registration token.
    pub fn fcm(token: impl Into<String>) -> Self {
        Self { provider: Provider::Fcm, ..Self::apns(token) }
    }

    /// The same, of one topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// The same, of one environment.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// The same, with something become of it.
    #[must_use]
    pub fn state(mut self, state: DeviceState) -> Self {
        self.state = state;
        self
    }
}

// === impl Devices ===

impl Devices {
    fn of(&self, provider: Provider) -> &RwLock<HashMap<String, Device>> {
        if provider == Provider::Apns { &self.apns } else { &self.fcm }
    }

    /// Adds one, or puts it in the place of the one with that token.
    pub(crate) fn put(&self, mut device: Device) {
        if device.provider == Provider::Apns {
            device.token.make_ascii_lowercase();
        }
        self.of(device.provider).write().insert(device.token.clone(), device);
    }

    pub(crate) fn remove(&self, provider: Provider, token: &str) -> bool {
        self.of(provider).write().remove(token).is_some()
    }

    pub(crate) fn set_state(&self, provider: Provider, token: &str, state: DeviceState) -> bool {
        self.of(provider).write().get_mut(token).map(|device| device.state = state).is_some()
    }

    /// What `look` makes of a device.
    pub(crate) fn with<T>(&self, provider: Provider, token: &str, look: impl FnOnce(Option<&Device>) -> T) -> T {
        look(self.of(provider).read().get(token))
    }

    /// The same for an Apple device, whose token may come in either case.
    pub(crate) fn with_apns<T>(&self, token: &str, look: impl FnOnce(Option<&Device>) -> T) -> T {
        if token.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.with(Provider::Apns, &token.to_ascii_lowercase(), look);
        }
        self.with(Provider::Apns, token, look)
    }

    pub(crate) fn count(&self, provider: Provider) -> usize {
        self.of(provider).read().len()
    }
}
