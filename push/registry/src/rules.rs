//! The rules (see the crate's header), applied in one write transaction. Nothing is written before it is sure that the change is allowed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use push_core::{AppName, Device, DeviceId, Provider, Token, UserId};
use redb::{ReadableTableMetadata, Table, WriteTransaction};
use uuid::Uuid;

use crate::{
    device::{Counts, Gone, Imported, NewDevice, Registered},
    error::{Error, Fault},
    tables,
};

/// How many devices there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) per_user: usize,
    pub(crate) total: u64,
}

/// One transaction's tables.
pub(crate) struct Batch<'txn> {
    devices: Table<'txn, u128, &'static [u8]>,
    users: Table<'txn, (&'static str, &'static str, u128), ()>,
    tokens: Table<'txn, u128, u128>,
    limits: Limits,
    delta: BTreeMap<(AppName, Provider), i64>,
    changed: bool,
}

/// What a batch did.
pub(crate) struct Finished {
    /// False: there is nothing to commit.
    pub(crate) changed: bool,
    /// The counts, once it is committed; `None`: as before.
    pub(crate) counts: Option<Counts>,
}

impl<'txn> Batch<'txn> {
    pub(crate) fn open(txn: &'txn WriteTransaction, limits: Limits) -> Result<Self, Fault> {
        let (devices, users, tokens) = (txn.open_table(tables::DEVICES)?, txn.open_table(tables::USERS)?, txn.open_table(tables::TOKENS)?);
        Ok(Self { devices, users, tokens, limits, delta: BTreeMap::new(), changed: false })
    }

    pub(crate) fn register(&mut self, new: NewDevice) -> Result<Result<Registered, Error>, Fault> {
        if let Err(refused) = new.check() {
            return Ok(Err(refused));
        }
        let mut of_user = tables::of_user(&self.users, &self.devices, &new.user)?;
        let had_token = tables::by_token(&self.tokens, &self.devices, &new.app, &new.token)?;
        let labelled = of_user.iter().find(|device| !new.label.is_empty() && device.app == new.app && device.label == new.label);
        let known = labelled.or(had_token.as_ref().filter(|device| device.user == new.user)).cloned();
        let mut replaced: Vec<Device> = had_token.into_iter().filter(|had| known.as_ref().is_none_or(|known| known.id != had.id)).collect();
        if known.is_none() {
            let surplus = (of_user.len() + 1).saturating_sub(self.limits.per_user.max(1));
            of_user.sort_by(|a, b| (a.registered_at, &a.id).cmp(&(b.registered_at, &b.id)));
            replaced.extend(of_user.into_iter().take(surplus));
            if (self.devices.len()? + 1).saturating_sub(replaced.len() as u64) > self.limits.total {
                return Ok(Err(Error::Full { most: self.limits.total }));
            }
        }
        for device in &replaced {
            self.remove(device)?;
        }
        let id = known.as_ref().map_or_else(|| tables::id(Uuid::now_v7().as_u128()), |known| Ok(known.id.clone()))?;
        let device = Device {
            id,
            user: new.user,
            app: new.app,
            provider: new.provider,
            token: new.token,
            environment: new.environment,
            web_keys: new.web_keys,
            platform: new.platform,
            locale: new.locale,
            label: new.label,
            wants_calls: new.wants_calls,
            wants_messages: new.wants_messages,
            registered_at: new.now,
        };
        self.put(&device, known.as_ref())?;
        Ok(Ok(Registered { device, created: known.is_none(), replaced }))
    }

    pub(crate) fn import(&mut self, list: Vec<NewDevice>) -> Result<Imported, Fault> {
        let mut imported = Imported::default();
        for (at, new) in list.into_iter().enumerate() {
            match self.register(new)? {
                Ok(Registered { created, replaced, .. }) => {
                    if created {
                        imported.created += 1
                    } else {
                        imported.refreshed += 1
                    }
                    imported.replaced += replaced.len() as u64;
                }
                Err(refused) => imported.refused.push((at, refused)),
            }
        }
        Ok(imported)
    }

    /// A device that is another's is answered like one that does not exist.
    pub(crate) fn unregister(&mut self, user: &UserId, id: &DeviceId) -> Result<Option<Device>, Fault> {
        let Some(number) = tables::number(id) else { return Ok(None) };
        self.take(tables::device(&self.devices, number)?.filter(|device| device.user == *user))
    }

    pub(crate) fn unregister_token(&mut self, app: &AppName, token: &Token) -> Result<Option<Device>, Fault> {
        self.take(tables::by_token(&self.tokens, &self.devices, app, token)?)
    }

    pub(crate) fn unregister_user(&mut self, user: &UserId) -> Result<Vec<Device>, Fault> {
        let devices = tables::of_user(&self.users, &self.devices, user)?;
        for device in &devices {
            self.remove(device)?;
        }
        Ok(devices)
    }

    /// `since` is by the provider's clock, `sent_at` and registrations are by ours. A registration after the push was sent is not what the
    /// answer speaks of, even if our clock is behind the provider's.
    pub(crate) fn gone(&mut self, app: &AppName, token: &Token, since: Option<Timestamp>, sent_at: Timestamp) -> Result<Gone, Fault> {
        let Some(device) = tables::by_token(&self.tokens, &self.devices, app, token)? else { return Ok(Gone::Unknown) };
        if device.registered_at > sent_at || since.is_some_and(|since| device.registered_at > since) {
            return Ok(Gone::RegisteredLater);
        }
        self.remove(&device)?;
        Ok(Gone::Removed(Box::new(device)))
    }

    /// Writes the counts that have changed.
    pub(crate) fn finish(self, txn: &WriteTransaction, before: &Counts) -> Result<Finished, Fault> {
        if self.delta.values().all(|change| *change == 0) {
            return Ok(Finished { changed: self.changed, counts: None });
        }
        let mut counts = before.clone();
        let mut table = txn.open_table(tables::COUNTS)?;
        for ((app, provider), change) in self.delta {
            let key = (app.as_str(), tables::provider_code(provider));
            let count = counts.of.get(&(app.clone(), provider)).copied().unwrap_or(0).saturating_add_signed(change);
            if count == 0 {
                table.remove(key)?;
                counts.of.remove(&(app, provider));
            } else {
                table.insert(key, count)?;
                counts.of.insert((app, provider), count);
            }
        }
        Ok(Finished { changed: true, counts: Some(counts) })
    }

    fn take(&mut self, device: Option<Device>) -> Result<Option<Device>, Fault> {
        if let Some(device) = &device {
            self.remove(device)?;
        }
        Ok(device)
    }

    fn put(&mut self, device: &Device, before: Option<&Device>) -> Result<(), Fault> {
        let number = stored(&device.id)?;
        self.devices.insert(number, tables::encode(device).as_slice())?;
        let place = tables::place(&device.app, &device.token);
        let Some(before) = before else {
            self.users.insert((&*device.user.domain, &*device.user.alias, number), ())?;
            self.tokens.insert(place, number)?;
            self.count(device, 1);
            return Ok(());
        };
        let place_before = tables::place(&before.app, &before.token);
        if place_before != place {
            self.tokens.remove(place_before)?;
            self.tokens.insert(place, number)?;
        }
        self.count(before, -1);
        self.count(device, 1);
        Ok(())
    }

    fn remove(&mut self, device: &Device) -> Result<(), Fault> {
        let number = stored(&device.id)?;
        self.devices.remove(number)?;
        self.users.remove((&*device.user.domain, &*device.user.alias, number))?;
        self.tokens.remove(tables::place(&device.app, &device.token))?;
        self.count(device, -1);
        Ok(())
    }

    fn count(&mut self, device: &Device, change: i64) {
        self.changed = true;
        *self.delta.entry((device.app.clone(), device.provider)).or_default() += change;
    }
}

/// Of an id that we have read or made.
fn stored(id: &DeviceId) -> Result<u128, Fault> {
    tables::number(id).ok_or_else(|| Fault::Corrupted(format!("device id {id} is not one of the registry's")))
}
