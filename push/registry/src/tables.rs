//! What the file holds. Devices are kept by id, in the order of their age, so that a new one goes to the end; two small indexes lead to
//! them, by user and by token. Every change keeps all of them in one transaction.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use prost::Message;
use push_core::{AppName, Device, DeviceId, Environment, Provider, Token, UserId, WebKeys};
use redb::{ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::Fault;

/// Id → record.
pub(crate) const DEVICES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("devices");
/// (domain, alias, id).
pub(crate) const USERS: TableDefinition<'_, (&str, &str, u128), ()> = TableDefinition::new("users");
/// Hash of application and token → id.
pub(crate) const TOKENS: TableDefinition<'_, u128, u128> = TableDefinition::new("tokens");
/// (application, provider) → devices.
pub(crate) const COUNTS: TableDefinition<'_, (&str, u8), u64> = TableDefinition::new("counts");
/// The format's version, under `FORMAT_KEY`.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(crate) const FORMAT_KEY: &str = "format";

/// A device in the file. Fields may be added: a missing one is empty, an unknown one is skipped.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Record {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(string, tag = "2")]
    alias: String,
    #[prost(string, tag = "3")]
    app: String,
    #[prost(uint32, tag = "4")]
    provider: u32,
    #[prost(string, tag = "5")]
    token: String,
    #[prost(bool, tag = "6")]
    development: bool,
    #[prost(string, optional, tag = "7")]
    p256dh: Option<String>,
    #[prost(string, optional, tag = "8")]
    auth: Option<String>,
    #[prost(string, tag = "9")]
    platform: String,
    #[prost(string, tag = "10")]
    locale: String,
    #[prost(string, tag = "11")]
    label: String,
    #[prost(bool, tag = "12")]
    wants_calls: bool,
    #[prost(bool, tag = "13")]
    wants_messages: bool,
    /// Seconds since 1970.
    #[prost(sfixed64, tag = "14")]
    registered: i64,
    #[prost(sint32, tag = "15")]
    registered_nanos: i32,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Record(…)")
    }
}

/// Where a token is found. Half of SHA-256: a second token of the same place cannot be made for another's.
pub(crate) fn place(app: &AppName, token: &Token) -> u128 {
    // A name never contains the separator.
    let hash = Sha256::new().chain_update(app.as_str()).chain_update([0]).chain_update(token.expose()).finalize();
    hash.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The id as it is stored. `None`: it is not one of ours.
pub(crate) fn number(id: &DeviceId) -> Option<u128> {
    let uuid = Uuid::try_parse(id.as_str()).ok()?;
    // One device has one id, however else UUIDs are written.
    let mut text = Uuid::encode_buffer();
    (uuid.as_hyphenated().encode_lower(&mut text) == id.as_str()).then(|| uuid.as_u128())
}

/// The id as others see it.
pub(crate) fn id(number: u128) -> Result<DeviceId, Fault> {
    let mut text = Uuid::encode_buffer();
    DeviceId::parse(Uuid::from_u128(number).as_hyphenated().encode_lower(&mut text)).map_err(|error| Fault::Corrupted(error.to_string()))
}

pub(crate) fn provider_code(provider: Provider) -> u8 {
    match provider {
        Provider::Apns => 1,
        Provider::Fcm => 2,
        Provider::Web => 3,
        Provider::Stub => 4,
    }
}

pub(crate) fn provider(code: u32) -> Option<Provider> {
    [Provider::Apns, Provider::Fcm, Provider::Web, Provider::Stub].into_iter().find(|it| u32::from(provider_code(*it)) == code)
}

pub(crate) fn encode(device: &Device) -> Vec<u8> {
    let keys = device.web_keys.as_ref();
    let record = Record {
        domain: device.user.domain.to_string(),
        alias: device.user.alias.to_string(),
        app: device.app.as_str().to_owned(),
        provider: provider_code(device.provider).into(),
        token: device.token.expose().to_owned(),
        development: device.environment == Environment::Development,
        p256dh: keys.map(|keys| keys.p256dh.clone()),
        auth: keys.map(|keys| keys.auth.clone()),
        platform: device.platform.clone(),
        locale: device.locale.clone(),
        label: device.label.clone(),
        wants_calls: device.wants_calls,
        wants_messages: device.wants_messages,
        registered: device.registered_at.as_second(),
        registered_nanos: device.registered_at.subsec_nanosecond(),
    };
    record.encode_to_vec()
}

pub(crate) fn decode(number: u128, bytes: &[u8]) -> Result<Device, Fault> {
    let damaged = |what: &str| Fault::Corrupted(format!("device {}: {what}", Uuid::from_u128(number)));
    let record = Record::decode(bytes).map_err(|_| damaged("its record cannot be read"))?;
    let provider = provider(record.provider).ok_or_else(|| damaged("its provider is unknown"))?;
    Ok(Device {
        id: id(number)?,
        user: UserId { domain: Arc::from(record.domain), alias: Arc::from(record.alias) },
        app: AppName::parse(&record.app).map_err(|_| damaged("its application has no valid name"))?,
        provider,
        token: Token::parse(provider, &record.token).map_err(|_| damaged("its token is not valid"))?,
        environment: if record.development { Environment::Development } else { Environment::Production },
        web_keys: record.p256dh.zip(record.auth).map(|(p256dh, auth)| WebKeys { p256dh, auth }),
        platform: record.platform,
        locale: record.locale,
        label: record.label,
        wants_calls: record.wants_calls,
        wants_messages: record.wants_messages,
        registered_at: Timestamp::new(record.registered, record.registered_nanos).map_err(|_| damaged("its time is out of range"))?,
    })
}

/// The device of this id.
pub(crate) fn device(devices: &impl ReadableTable<u128, &'static [u8]>, number: u128) -> Result<Option<Device>, Fault> {
    devices.get(number)?.map(|record| decode(number, record.value())).transpose()
}

/// The device that an index names: it must be there.
pub(crate) fn indexed(devices: &impl ReadableTable<u128, &'static [u8]>, number: u128) -> Result<Device, Fault> {
    device(devices, number)?.ok_or_else(|| Fault::Corrupted(format!("device {} is in an index only", Uuid::from_u128(number))))
}

/// A user's devices, the oldest first.
pub(crate) fn of_user(
    users: &impl ReadableTable<(&'static str, &'static str, u128), ()>,
    devices: &impl ReadableTable<u128, &'static [u8]>,
    user: &UserId,
) -> Result<Vec<Device>, Fault> {
    let (domain, alias) = (&*user.domain, &*user.alias);
    let mut found = Vec::new();
    for entry in users.range((domain, alias, u128::MIN)..=(domain, alias, u128::MAX))? {
        found.push(indexed(devices, entry?.0.value().2)?);
    }
    Ok(found)
}

/// The device that has this token.
pub(crate) fn by_token(
    tokens: &impl ReadableTable<u128, u128>,
    devices: &impl ReadableTable<u128, &'static [u8]>,
    app: &AppName,
    token: &Token,
) -> Result<Option<Device>, Fault> {
    let Some(number) = tokens.get(place(app, token))?.map(|found| found.value()) else { return Ok(None) };
    Ok(Some(indexed(devices, number)?).filter(|device| device.token == *token && device.app == *app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_ours_only_as_we_write_it() {
        let made = id(Uuid::now_v7().as_u128()).unwrap();
        assert!(number(&made).is_some());
        for other in [made.as_str().replace('-', ""), made.as_str().to_uppercase(), "phone-1".to_owned()] {
            assert_eq!(number(&DeviceId::parse(&other).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn damaged_records_are_told_by_the_devices_id() {
        let error = decode(1, &[0xff; 9]).unwrap_err();
        assert!(error.to_string().contains("00000000-0000-0000-0000-000000000001"), "{error}");
    }
}
