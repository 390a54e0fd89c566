//! What `config check` finds, and that its words tell what to do.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{sync::Arc, time::Duration};

use push_apns::{Auth, Certificate, Field, ProviderTokens, Settings, SystemClock};
use push_core::{ApnsPushType, Environment};
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair};

const BUNDLE: &str = "com.example.phone";

/// A certificate as Apple makes them, for the bundle and the environment of the extension's last number.
fn certificate(bundle: &str, environment: u64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), bundle);
    let null = vec![5, 0];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 840, 113_635, 100, 6, 3, environment], null)];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn settings(bundle: &str, environment: u64) -> Settings {
    let (chain, key) = certificate(bundle, environment);
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let mut settings = Settings::new(Environment::Production, BUNDLE, Auth::Certificate(Arc::new(certificate)));
    settings.ca_pem = Some(chain.into_bytes());
    settings
}

/// What is wrong with the settings after a change: which, and a word of the reason.
fn wrong(change: impl FnOnce(&mut Settings), field: Field, word: &str) {
    let mut settings = settings(BUNDLE, 2);
    change(&mut settings);
    let error = settings.check().unwrap_err();
    assert_eq!(error.field(), field, "{error}");
    assert!(error.to_string().contains(word), "{error}");
}

#[test]
fn what_is_right_is_found_right() {
    settings(BUNDLE, 2).check().unwrap();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let tokens = ProviderTokens::new(key.as_bytes(), "KEY4567890", "TEAM567890", Arc::new(SystemClock)).unwrap();
    let mut settings = settings(BUNDLE, 2);
    settings.auth = Auth::Token(tokens);
    settings.check().unwrap();
    assert!(!format!("{settings:?}").contains("PRIVATE"));
}

#[test]
fn topics_hosts_and_limits_that_cannot_work_are_named() {
    wrong(|it| it.topic = "phone".to_owned(), Field::Topic, "bundle id");
    wrong(|it| it.topic = "com.example.phone ".to_owned(), Field::Topic, "bundle id");
    wrong(|it| it.topic = format!("{BUNDLE}.voip"), Field::Topic, ".voip is added");
    wrong(|it| _ = it.topics.insert(ApnsPushType::Mdm, "a\nb".to_owned()), Field::Topics, "mdm");
    wrong(|it| it.at.host.clear(), Field::Host, "host name");
    wrong(|it| it.at.host = "a b".to_owned(), Field::Host, "host name");
    wrong(|it| it.max_connections = 0, Field::Limits, "connections");
    wrong(|it| it.max_in_flight = 0, Field::Limits, "requests");
    wrong(|it| it.ping_deadline = Duration::ZERO, Field::Limits, "ping");
    wrong(|it| it.ca_pem = Some(b"no certificate".to_vec()), Field::Ca, "certificate");
}

#[test]
fn certificates_of_others_are_refused_with_their_owner() {
    let error = settings("com.example.other", 2).check().unwrap_err();
    assert_eq!((error.field(), error.to_string()), (Field::Certificate, format!("is for com.example.other, not for the topic {BUNDLE}")));
    let error = settings(BUNDLE, 1).check().unwrap_err();
    assert!(error.to_string().contains("environment Production"), "{error}");
    // Key and certificate of different pairs.
    let ((chain, _), (_, key)) = (certificate(BUNDLE, 2), certificate(BUNDLE, 2));
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    wrong(|it| it.auth = Auth::Certificate(Arc::new(certificate)), Field::Certificate, "cannot be used");
    for (chain, key) in [("", &*key), (&*chain, ""), ("rubbish", "rubbish")] {
        let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(error.field(), Field::Certificate, "{error}");
    }
}
