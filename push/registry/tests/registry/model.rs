//! Random changes, compared with a model in memory: the rules as a list that is searched from end to end.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*};
use push_core::{Device, DeviceId, UserId};
use push_registry::{Domains, Error, Gone, NewDevice, Options, Registered, Registry};

use crate::support::{app, at, device, small, token, user};

const DOMAINS: [&str; 2] = ["a.example", "b.example"];
const ALIASES: [&str; 2] = ["1001", "1002"];
const APPS: [&str; 2] = ["android", "other"];
const TOKENS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
const LABELS: [&str; 3] = ["", "phone", "tablet"];
const PER_USER: usize = 3;
const TOTAL: u64 = 7;

#[derive(Debug, Clone)]
enum Step {
    Register {
        user: usize,
        app: usize,
        token: usize,
        label: usize,
        now: i64,
    },
    Import(Vec<(usize, usize, usize, usize, i64)>),
    /// The device by its place in the model: another user may try to remove it.
    Unregister {
        user: usize,
        device: usize,
    },
    UnregisterToken {
        app: usize,
        token: usize,
    },
    UnregisterUser {
        user: usize,
    },
    Gone {
        app: usize,
        token: usize,
        since: Option<i64>,
        sent_at: i64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let new = || (0..4_usize, 0..2_usize, 0..6_usize, 0..3_usize, 0..20_i64);
    prop_oneof![
        8 => new().prop_map(|(user, app, token, label, now)| Step::Register { user, app, token, label, now }),
        1 => vec(new(), 0..6).prop_map(Step::Import),
        2 => (0..4_usize, 0..8_usize).prop_map(|(user, device)| Step::Unregister { user, device }),
        1 => (0..2_usize, 0..6_usize).prop_map(|(app, token)| Step::UnregisterToken { app, token }),
        1 => (0..4_usize).prop_map(|user| Step::UnregisterUser { user }),
        3 => (0..2_usize, 0..6_usize, option::of(0..20_i64), 0..20_i64)
            .prop_map(|(app, token, since, sent_at)| Step::Gone { app, token, since, sent_at }),
        1 => Just(Step::Reopen),
    ]
}

fn one_of(number: usize) -> UserId {
    user(DOMAINS[number / 2], ALIASES[number % 2])
}

fn new((user, app_number, token, label, now): (usize, usize, usize, usize, i64)) -> NewDevice {
    NewDevice { app: app(APPS[app_number]), ..device(&one_of(user), TOKENS[token], LABELS[label], now) }
}

#[derive(Default)]
struct Model(Vec<Device>);

impl Model {
    /// `None`: refused, there are too many. The id of a new device is the registry's.
    fn register(&mut self, new: &NewDevice, id: Option<&DeviceId>) -> Option<(Device, bool, Vec<Device>)> {
        let labelled = self.0.iter().find(|d| !new.label.is_empty() && d.user == new.user && d.app == new.app && d.label == new.label);
        let token = self.0.iter().find(|d| d.app == new.app && d.token == new.token);
        let same = labelled.or(token.filter(|d| d.user == new.user)).cloned();
        let mut replaced: Vec<Device> = token.into_iter().filter(|d| same.as_ref().is_none_or(|same| same.id != d.id)).cloned().collect();
        if same.is_none() {
            let mut of_user: Vec<_> = self.0.iter().filter(|d| d.user == new.user).cloned().collect();
            of_user.sort_by_key(|d| (d.registered_at, d.id.clone()));
            while of_user.len() + 1 > PER_USER {
                replaced.push(of_user.remove(0));
            }
            if (self.0.len() + 1 - replaced.len()) as u64 > TOTAL {
                return None;
            }
        }
        let device = Device {
            id: same.as_ref().map(|d| &d.id).or(id).expect("a refused device was expected to be registered").clone(),
            user: new.user.clone(),
            app: new.app.clone(),
            provider: new.provider,
            token: new.token.clone(),
            environment: new.environment,
            web_keys: None,
            platform: new.platform.clone(),
            locale: new.locale.clone(),
            label: new.label.clone(),
            wants_calls: new.wants_calls,
            wants_messages: new.wants_messages,
            registered_at: new.now,
        };
        self.0.retain(|d| d.id != device.id && !replaced.iter().any(|r| r.id == d.id));
        self.0.push(device.clone());
        Some((device, same.is_none(), replaced))
    }

    fn take(&mut self, which: impl Fn(&Device) -> bool) -> Vec<Device> {
        let taken = sorted(self.0.iter().filter(|d| which(d)).cloned().collect());
        self.0.retain(|d| !which(d));
        taken
    }
}

fn sorted(mut devices: Vec<Device>) -> Vec<Device> {
    devices.sort_by_key(|d| (d.user.clone(), d.id.clone()));
    devices
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { max_per_user: PER_USER, max_devices: TOTAL, ..small() };
    let mut registry = Registry::open(directory.path(), options).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Register { user, app, token, label, now } => {
                let new = new((user, app, token, label, now));
                let answer = registry.register(new.clone()).await;
                let id = answer.as_ref().ok().map(|registered| &registered.device.id);
                let Some((device, created, replaced)) = model.register(&new, id) else {
                    prop_assert!(matches!(answer, Err(Error::Full { most: TOTAL })), "{answer:?}");
                    continue;
                };
                let Registered { replaced: replaced_here, .. } = answer.clone().unwrap();
                prop_assert_eq!(sorted(replaced_here.clone()), sorted(replaced));
                prop_assert_eq!(answer.unwrap(), Registered { device, created, replaced: replaced_here });
            }
            Step::Import(list) => {
                let list: Vec<_> = list.into_iter().map(new).collect();
                let imported = registry.import(list.clone()).await.unwrap();
                // Ids are the registry's; the model learns them afterwards by token.
                let (mut created, mut refreshed, mut refused, mut replaced) = (0, 0, Vec::new(), 0);
                for (at, new) in list.iter().enumerate() {
                    let unknown = DeviceId::parse(&format!("unknown-{at}")).unwrap();
                    match model.register(new, Some(&unknown)) {
                        Some((_, is_new, gone)) => {
                            *(if is_new { &mut created } else { &mut refreshed }) += 1;
                            replaced += gone.len() as u64;
                        }
                        None => refused.push(at),
                    }
                }
                prop_assert_eq!((imported.created, imported.refreshed, imported.replaced), (created, refreshed, replaced));
                prop_assert_eq!(imported.refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), refused);
                for device in model.0.iter_mut().filter(|d| d.id.as_str().starts_with("unknown")) {
                    device.id = registry.by_token(&device.app, &device.token).await.unwrap().unwrap().id;
                }
            }
            Step::Unregister { user, device } => {
                let Some(id) = model.0.get(device).map(|d| d.id.clone()) else { continue };
                let answer = registry.unregister(&one_of(user), &id).await.unwrap();
                prop_assert_eq!(answer.into_iter().collect::<Vec<_>>(), model.take(|d| d.id == id && d.user == one_of(user)));
            }
            Step::UnregisterToken { app: app_number, token: number } => {
                let (app, token) = (app(APPS[app_number]), token(TOKENS[number]));
                let answer = registry.unregister_token(&app, &token).await.unwrap();
                prop_assert_eq!(answer.into_iter().collect::<Vec<_>>(), model.take(|d| d.app == app && d.token == token));
            }
            Step::UnregisterUser { user } => {
                let answer = registry.unregister_user(&one_of(user)).await.unwrap();
                prop_assert_eq!(answer, model.take(|d| d.user == one_of(user)));
            }
            Step::Gone { app: app_number, token: number, since, sent_at } => {
                let (app, token) = (app(APPS[app_number]), token(TOKENS[number]));
                let answer = registry.gone(&app, &token, since.map(at), at(sent_at)).await.unwrap();
                let has_it = |d: &Device| d.app == app && d.token == token;
                let stays = |d: &Device| d.registered_at > at(sent_at) || since.is_some_and(|since| d.registered_at > at(since));
                let expected = match model.0.iter().find(|d| has_it(d)) {
                    None => Gone::Unknown,
                    Some(device) if stays(device) => Gone::RegisteredLater,
                    Some(_) => Gone::Removed(Box::new(model.take(has_it).remove(0))),
                };
                prop_assert_eq!(answer, expected);
            }
            Step::Reopen => {
                registry.close().await;
                registry = Registry::open(directory.path(), options).unwrap();
            }
        }
        compare(&registry, &model).await?;
    }
    let report = registry.check().await.unwrap();
    prop_assert_eq!((report.devices, report.problems), (model.0.len() as u64, 0));
    registry.close().await;
    Ok(())
}

async fn compare(registry: &Registry, model: &Model) -> Result<(), TestCaseError> {
    let expected = sorted(model.0.clone());
    prop_assert_eq!(registry.counts().total(), expected.len() as u64);
    let all = registry.page(Domains::All, None, 1000).await.unwrap();
    prop_assert_eq!((&all.devices, all.next), (&expected, None));
    for domain in DOMAINS {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = registry.page(Domains::Only(BTreeSet::from([domain.into()])), after, 2).await.unwrap();
            listed.extend(page.devices);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(listed, expected.iter().filter(|d| &*d.user.domain == domain).cloned().collect::<Vec<_>>());
    }
    for number in 0..4 {
        let of_user: Vec<_> = expected.iter().filter(|d| d.user == one_of(number)).cloned().collect();
        prop_assert_eq!(registry.devices(&one_of(number)).await.unwrap(), of_user);
    }
    for (app_name, text) in APPS.into_iter().flat_map(|app| TOKENS.map(|token| (app, token))) {
        let found = registry.by_token(&app(app_name), &token(text)).await.unwrap();
        prop_assert_eq!(found.as_ref(), expected.iter().find(|d| d.app == app(app_name) && d.token == token(text)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_changes_ends_as_in_the_model(steps in vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
