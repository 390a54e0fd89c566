//! Each rule of the crate's header.

use std::{collections::BTreeSet, sync::Arc};

use jiff::SignedDuration;
use push_core::{DeviceId, Environment, Provider, Token, WebKeys};
use push_registry::{Cursor, Domains, Error, Gone, NewDevice, Options};

use crate::support::{app, at, device, fresh, small, token, user};

#[tokio::test]
async fn a_device_is_found_by_user_id_and_token_with_all_that_was_registered() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let new = NewDevice {
        provider: Provider::Web,
        token: Token::parse(Provider::Web, "https://push.example/1").unwrap(),
        environment: Environment::Development,
        web_keys: Some(WebKeys { p256dh: "key".to_owned(), auth: "secret".to_owned() }),
        wants_messages: false,
        now: at(0) + SignedDuration::from_nanos(123_456_789),
        ..device(&alice, "unused", "Браузер", 0)
    };
    let registered = registry.register(new.clone()).await.unwrap();
    assert!(registered.created && registered.replaced.is_empty());
    let found = registered.device;
    assert_eq!((&found.user, &found.token, &found.web_keys, &found.label), (&new.user, &new.token, &new.web_keys, &new.label));
    assert_eq!((found.environment, found.provider, found.registered_at), (new.environment, new.provider, new.now));
    assert_eq!((found.platform.as_str(), found.locale.as_str()), ("android", "ru-RU"));
    assert!(found.wants_calls && !found.wants_messages);

    assert_eq!(registry.devices(&alice).await.unwrap(), std::slice::from_ref(&found));
    assert_eq!(registry.devices_of(vec![user("b.example", "1001"), alice]).await.unwrap(), [vec![], vec![found.clone()]]);
    assert_eq!(registry.get(&found.id).await.unwrap().as_ref(), Some(&found));
    assert_eq!(registry.by_token(&new.app, &new.token).await.unwrap(), Some(found.clone()));
    assert_eq!(registry.by_token(&app("other"), &new.token).await.unwrap(), None);
    assert_eq!(registry.get(&DeviceId::parse("phone").unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn a_new_token_of_the_same_label_is_the_same_device() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let first = registry.register(device(&alice, "one", "phone", 0)).await.unwrap().device;
    let again = registry.register(device(&alice, "two", "phone", 5)).await.unwrap();
    assert!(!again.created && again.replaced.is_empty());
    assert_eq!((&again.device.id, again.device.token.expose(), again.device.registered_at), (&first.id, "two", at(5)));
    assert_eq!(registry.by_token(&first.app, &first.token).await.unwrap(), None);
    assert_eq!(registry.devices(&alice).await.unwrap(), [again.device]);

    // Another application's label is another device, and so is another user's.
    let other_app = NewDevice { app: app("ios"), ..device(&alice, "two", "phone", 6) };
    assert!(registry.register(other_app).await.unwrap().created);
    assert!(registry.register(device(&user("a.example", "1002"), "three", "phone", 7)).await.unwrap().created);
    assert_eq!(registry.counts().total(), 3);
}

#[tokio::test]
async fn the_same_token_again_is_the_same_device_with_what_is_told_now() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let first = registry.register(device(&alice, "one", "", 0)).await.unwrap().device;
    let quiet = NewDevice { wants_calls: false, ..device(&alice, "one", "phone", 9) };
    let again = registry.register(quiet).await.unwrap();
    assert!(!again.created && again.replaced.is_empty());
    assert_eq!((&again.device.id, again.device.label.as_str(), again.device.wants_calls), (&first.id, "phone", false));
    assert_eq!(again.device.registered_at, at(9));

    // Without labels each token is a device of its own.
    assert!(registry.register(device(&alice, "two", "", 10)).await.unwrap().created);
    assert!(registry.register(device(&alice, "three", "", 11)).await.unwrap().created);
    assert_eq!(registry.devices(&alice).await.unwrap().len(), 3);
}

#[tokio::test]
async fn if_label_and_token_name_two_devices_of_the_user_the_labelled_one_stays() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let phone = registry.register(device(&alice, "one", "phone", 0)).await.unwrap().device;
    let tablet = registry.register(device(&alice, "two", "tablet", 1)).await.unwrap().device;
    let merged = registry.register(device(&alice, "two", "phone", 2)).await.unwrap();
    assert_eq!((&merged.device.id, &merged.replaced), (&phone.id, &vec![tablet]));
    assert_eq!(registry.devices(&alice).await.unwrap(), [merged.device]);
    assert_eq!(registry.by_token(&phone.app, &phone.token).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_belongs_to_one_user_at_a_time_across_domains() {
    let (_directory, registry) = fresh(small());
    let (alice, bob) = (user("a.example", "1001"), user("b.example", "1001"));
    let of_alice = registry.register(device(&alice, "one", "phone", 0)).await.unwrap().device;
    let moved = registry.register(device(&bob, "one", "phone", 1)).await.unwrap();
    assert!(moved.created);
    assert_eq!(moved.replaced, std::slice::from_ref(&of_alice));
    assert_ne!(moved.device.id, of_alice.id);
    assert_eq!(registry.devices(&alice).await.unwrap(), []);
    assert_eq!(registry.get(&of_alice.id).await.unwrap(), None);
    assert_eq!(registry.by_token(&of_alice.app, &of_alice.token).await.unwrap(), Some(moved.device));
    assert_eq!(registry.counts().total(), 1);
}

#[tokio::test]
async fn tenants_with_the_same_alias_never_see_each_others_devices() {
    let (_directory, registry) = fresh(small());
    // Names that run into each other if they are only strung together are as separate.
    let users = [user("a.example", "1001"), user("b.example", "1001"), user("a.example1", "001"), user("a.exampl", "e1001")];
    for (number, user) in users.iter().enumerate() {
        registry.register(device(user, &format!("token{number}"), "phone", 0)).await.unwrap();
    }
    for (number, user) in users.iter().enumerate() {
        let devices = registry.devices(user).await.unwrap();
        assert_eq!(devices.iter().map(|device| device.token.expose().to_owned()).collect::<Vec<_>>(), [format!("token{number}")]);
        let only = Domains::Only(BTreeSet::from([Arc::clone(&user.domain)]));
        let listed = registry.page(only, None, 100).await.unwrap().devices;
        assert!(!listed.is_empty() && listed.iter().all(|device| device.user.domain == user.domain));
        // Nor can one remove another's.
        for other in users.iter().filter(|other| *other != user) {
            assert_eq!(registry.unregister(other, &devices[0].id).await.unwrap(), None);
        }
    }
    assert_eq!(registry.unregister_user(&users[0]).await.unwrap().len(), 1);
    assert_eq!(registry.devices(&users[1]).await.unwrap().len(), 1);
    assert_eq!(registry.counts().total(), 3);
}

#[tokio::test]
async fn a_user_with_the_most_devices_loses_the_one_that_registered_longest_ago() {
    let (_directory, registry) = fresh(Options { max_per_user: 3, ..small() });
    let alice = user("a.example", "1001");
    for (token, seconds) in [("one", 0), ("two", 1), ("three", 2)] {
        assert_eq!(registry.register(device(&alice, token, token, seconds)).await.unwrap().replaced, []);
    }
    // A refresh makes the oldest the youngest.
    registry.register(device(&alice, "one", "one", 3)).await.unwrap();
    let fourth = registry.register(device(&alice, "four", "four", 4)).await.unwrap();
    assert_eq!(fourth.replaced.iter().map(|device| device.label.as_str()).collect::<Vec<_>>(), ["two"]);
    assert_eq!(registry.devices(&alice).await.unwrap().len(), 3);
}

#[tokio::test]
async fn above_the_total_limit_new_devices_are_refused_and_known_ones_refreshed() {
    let (_directory, registry) = fresh(Options { max_devices: 2, ..small() });
    let (alice, bob) = (user("a.example", "1001"), user("a.example", "1002"));
    registry.register(device(&alice, "one", "phone", 0)).await.unwrap();
    registry.register(device(&bob, "two", "phone", 0)).await.unwrap();
    assert!(matches!(registry.register(device(&bob, "three", "tablet", 1)).await, Err(Error::Full { most: 2 })));
    assert_eq!(registry.devices(&bob).await.unwrap().len(), 1);
    assert!(!registry.register(device(&bob, "four", "phone", 2)).await.unwrap().created);
    // A token that moves makes its own room.
    assert!(registry.register(device(&bob, "one", "tablet", 3)).await.unwrap().created);
    assert_eq!(registry.counts().total(), 2);
}

#[tokio::test]
async fn what_is_too_long_or_lacks_keys_is_refused_with_the_fields_name() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let wrong = [
        (device(&user("", "1001"), "one", "", 0), "the domain"),
        (device(&user("a.example", ""), "one", "", 0), "the alias"),
        (device(&alice, "one", &"x".repeat(256), 0), "the label"),
        (NewDevice { platform: "x".repeat(65), ..device(&alice, "one", "", 0) }, "the platform"),
        (NewDevice { locale: "x".repeat(65), ..device(&alice, "one", "", 0) }, "the locale"),
        (NewDevice { provider: Provider::Web, ..device(&alice, "one", "", 0) }, "the subscription's keys"),
    ];
    for (new, expected) in wrong {
        let refused = registry.register(new).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { field, .. } if field == expected), "{refused}");
    }
    assert_eq!(registry.counts().total(), 0);
}

#[tokio::test]
async fn a_device_is_unregistered_by_id_token_or_user() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let mut devices = Vec::new();
    for name in ["one", "two", "three", "four"] {
        devices.push(registry.register(device(&alice, name, name, 0)).await.unwrap().device);
    }
    assert_eq!(registry.unregister(&alice, &devices[0].id).await.unwrap().as_ref(), Some(&devices[0]));
    assert_eq!(registry.unregister(&alice, &devices[0].id).await.unwrap(), None);
    assert_eq!(registry.unregister_token(&app("android"), &token("two")).await.unwrap().as_ref(), Some(&devices[1]));
    assert_eq!(registry.unregister_token(&app("android"), &token("two")).await.unwrap(), None);
    assert_eq!(registry.unregister_user(&alice).await.unwrap(), devices[2..]);
    assert_eq!(registry.unregister_user(&alice).await.unwrap(), []);
    assert_eq!(registry.counts().iter().count(), 0);
    assert_eq!(registry.check().await.unwrap().problems, 0);
}

/// TRIALS 20, the registry's part: a token that is gone is removed and not used for ever; one that registered again after the provider's
/// timestamp stays.
#[tokio::test]
async fn trial_20_a_gone_token_is_removed_unless_it_registered_after_the_providers_timestamp() {
    let (_directory, registry) = fresh(small());
    let (alice, bob, android) = (user("a.example", "1001"), user("b.example", "1001"), app("android"));
    let one = token("one");
    registry.register(device(&alice, "one", "phone", 100)).await.unwrap();

    // It registered at 100; the provider speaks of 99, about a push sent at 150.
    assert_eq!(registry.gone(&android, &one, Some(at(99)), at(150)).await.unwrap(), Gone::RegisteredLater);
    // The answer to a push that was sent before it registered says nothing about the registration, even if our clock is behind.
    assert_eq!(registry.gone(&android, &one, Some(at(120)), at(99)).await.unwrap(), Gone::RegisteredLater);
    assert_eq!(registry.gone(&android, &one, None, at(99)).await.unwrap(), Gone::RegisteredLater);
    // Apple's timestamps are milliseconds: a registration within the same one, but later, counts.
    let later = NewDevice { now: at(100) + SignedDuration::from_micros(1), ..device(&alice, "one", "phone", 100) };
    registry.register(later).await.unwrap();
    assert_eq!(registry.gone(&android, &one, Some(at(100)), at(150)).await.unwrap(), Gone::RegisteredLater);
    assert_eq!(registry.devices(&alice).await.unwrap().len(), 1);

    // Gone since after the registration: removed, once.
    let Gone::Removed(removed) = registry.gone(&android, &one, Some(at(101)), at(150)).await.unwrap() else { panic!("it stays") };
    assert_eq!(removed.user, alice);
    assert_eq!(registry.devices(&alice).await.unwrap(), []);
    assert_eq!(registry.gone(&android, &one, Some(at(101)), at(150)).await.unwrap(), Gone::Unknown);

    // Without a timestamp the push's own time decides.
    registry.register(device(&alice, "one", "phone", 200)).await.unwrap();
    assert!(matches!(registry.gone(&android, &one, None, at(200)).await.unwrap(), Gone::Removed(_)));

    // A token that another user has registered since is that user's, and stays.
    registry.register(device(&alice, "one", "phone", 300)).await.unwrap();
    registry.register(device(&bob, "one", "phone", 310)).await.unwrap();
    assert_eq!(registry.gone(&android, &one, Some(at(305)), at(320)).await.unwrap(), Gone::RegisteredLater);
    assert_eq!(registry.devices(&bob).await.unwrap().len(), 1);
    // Another application's token of the same text is another.
    assert_eq!(registry.gone(&app("ios"), &one, Some(at(400)), at(400)).await.unwrap(), Gone::Unknown);
}

#[tokio::test]
async fn a_list_is_paged_without_gaps_or_repeats_while_devices_come_and_go() {
    let (_directory, registry) = fresh(small());
    for number in 0..30 {
        let domain = ["a.example", "b.example", "c.example"][number % 3];
        registry.register(device(&user(domain, &format!("{}", number / 6)), &format!("t{number}"), "", 0)).await.unwrap();
    }
    let only = Domains::Only(BTreeSet::from(["a.example".into(), "c.example".into(), "none.example".into()]));
    for (domains, expected) in [(Domains::All, 30_usize), (only, 20)] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None::<Cursor>, 0);
        loop {
            let page = registry.page(domains.clone(), after, 7).await.unwrap();
            assert!(page.devices.len() <= 7);
            seen.extend(page.devices);
            pages += 1;
            // As a client sends it back.
            let Some(next) = page.next else { break };
            after = Some(next.to_string().parse().unwrap());
            // The device that the cursor stands on goes, and one comes that belongs before it.
            let last = seen.last().unwrap();
            registry.unregister(&last.user, &last.id).await.unwrap();
            registry.register(device(&user("a.example", "+"), "early", "early", 0)).await.unwrap();
        }
        assert_eq!((seen.len(), pages), (expected, expected.div_ceil(7)));
        let order: Vec<_> = seen.iter().map(|device| (device.user.clone(), device.id.clone())).collect();
        assert!(order.is_sorted());
        let tokens: BTreeSet<_> = seen.iter().map(|device| device.token.clone()).collect();
        assert_eq!(tokens.len(), expected);
        // As it was.
        registry.unregister_user(&user("a.example", "+")).await.unwrap();
        for was in seen {
            registry.register(device(&was.user, was.token.expose(), "", 1)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn counts_follow_every_change_by_application_and_provider() {
    let (_directory, registry) = fresh(small());
    let alice = user("a.example", "1001");
    let ios = |token: &str, seconds| NewDevice {
        app: app("ios"),
        provider: Provider::Apns,
        token: Token::parse(Provider::Apns, &token.repeat(16)).unwrap(),
        ..device(&alice, "unused", token, seconds)
    };
    registry.register(device(&alice, "one", "one", 0)).await.unwrap();
    registry.register(device(&alice, "two", "two", 0)).await.unwrap();
    registry.register(ios("ab", 0)).await.unwrap();
    let counted = |registry: &push_registry::Registry| -> Vec<(String, Provider, u64)> {
        registry.counts().iter().map(|(app, provider, count)| (app.to_string(), provider, count)).collect()
    };
    assert_eq!(counted(&registry), [("android".to_owned(), Provider::Fcm, 2), ("ios".to_owned(), Provider::Apns, 1)]);
    registry.unregister_token(&app("ios"), &ios("ab", 0).token).await.unwrap();
    // An application may change its provider.
    let stub = NewDevice { provider: Provider::Stub, ..device(&alice, "one", "one", 1) };
    registry.register(stub).await.unwrap();
    assert_eq!(counted(&registry), [("android".to_owned(), Provider::Fcm, 1), ("android".to_owned(), Provider::Stub, 1)]);
}

#[tokio::test]
async fn an_import_follows_the_same_rules_and_names_what_it_refused() {
    let (_directory, registry) = fresh(Options { max_devices: 3, ..small() });
    let (alice, bob) = (user("a.example", "1001"), user("b.example", "1001"));
    let list = vec![
        device(&alice, "one", "phone", 0),
        device(&alice, "two", "phone", 1),
        device(&user("", ""), "three", "", 2),
        device(&bob, "two", "phone", 3),
        device(&bob, "four", "tablet", 4),
        device(&bob, "five", "watch", 5),
        device(&bob, "six", "car", 6),
    ];
    let imported = registry.import(list).await.unwrap();
    assert_eq!((imported.created, imported.refreshed, imported.replaced), (4, 1, 1));
    assert_eq!(imported.refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [2, 6]);
    assert!(matches!(imported.refused[0].1, Error::Invalid { field: "the domain", .. }));
    assert!(matches!(imported.refused[1].1, Error::Full { most: 3 }));
    assert_eq!(registry.devices(&alice).await.unwrap(), []);
    assert_eq!(registry.devices(&bob).await.unwrap().len(), 3);
    assert_eq!(registry.check().await.unwrap().problems, 0);
}

#[tokio::test]
async fn whole_tokens_are_in_no_debug_text() {
    let (_directory, registry) = fresh(small());
    let new = device(&user("a.example", "1001"), "abcdefghijklmnopqrstuvwxyz", "phone", 0);
    let registered = registry.register(new.clone()).await.unwrap();
    let texts = format!("{new:?} {registered:?} {registry:?}");
    assert!(texts.contains("…uvwxyz") && !texts.contains("abcdef"), "{texts}");
}
