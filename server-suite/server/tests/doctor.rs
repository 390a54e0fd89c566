//! `elph-server doctor` from outside: what is wrong is named with what to do, and nothing is changed by looking.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn run(directory: &Path, config: &str, arguments: &[&str]) -> Output {
    let path = directory.join("elph-server.toml");
    std::fs::write(&path, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_elph-server")).args(arguments).arg("--config").arg(path).output().unwrap()
}

fn config(directory: &Path, more: &str) -> String {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!(
        "[database]\nurl = \"sqlite:{}\"\n[http]\nlisten = \"{}\"\ninternal_listen = \"{}\"\n{more}\n",
        directory.join("elph.db").display(),
        free(),
        free()
    )
}

#[test]
fn what_is_wrong_is_named_with_what_to_do_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "[[agents]]\naddress = \"unix:{}\"\ndomains = [\"elph.local\"]\n[[oidc.issuers]]\nissuer = \"https://issuer.example\"\n\
         audience = \"elph\"\njwks_url = \"https://{nobody}/keys\"\ndomain = \"elph.local\"\n",
        directory.path().join("nothing.sock").display()
    );
    let config = config(directory.path(), &more);
    let output = run(directory.path(), &config, &["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for (found, advice) in [
        ("WRONG agent unix:", "start elph-agent"),
        ("WRONG the keys of https://issuer.example cannot be had", "oidc.issuers[0].jwks_url"),
        ("know  the database ", "the first start makes it"),
    ] {
        let at = text.lines().position(|line| line.starts_with(found));
        let next = at.and_then(|at| text.lines().nth(at + 1)).unwrap_or_default();
        assert!(next.contains("-> ") && next.contains(advice), "{found}\n{text}");
    }
    assert!(!directory.path().join("elph.db").exists(), "looking makes no database");
    let output = run(directory.path(), &config, &["doctor", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json.get("well"), Some(&Value::Bool(false)));
    assert!(json.get("findings").and_then(Value::as_array).is_some_and(|findings| findings.len() > 5), "{json}");
}

#[test]
fn all_is_well_with_tables_and_keys_and_a_refused_configuration_is_64() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.json");
    std::fs::write(
        &keys,
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"1","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    )
    .unwrap();
    let more = format!("[[oidc.issuers]]\nissuer = \"https://issuer.example\"\naudience = \"elph\"\njwks_file = \"{}\"\n", keys.display());
    let config = config(directory.path(), &more);
    assert!(run(directory.path(), &config, &["db", "migrate"]).status.success());
    let output = run(directory.path(), &config, &["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for found in ["well  the tables of status are at version ", "well  the keys of https://issuer.example can be had", "well  http.listen "]
    {
        assert!(text.lines().any(|line| line.starts_with(found)), "{found}\n{text}");
    }
    assert_eq!(run(directory.path(), "nonsense = 1\n", &["doctor"]).status.code(), Some(64));
}

#[test]
fn a_directory_that_cannot_be_asked_is_named_with_the_keys_to_correct() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        "[sso]\npublic_url = \"https://elph.example.org\"\nsecret = \"a secret of at least 32 characters\"\n\
         [[sso.realms]]\ndomain = \"elph.local\"\nsource = \"ldap\"\nrequire_subscriber = false\n\
         [sso.realms.ldap]\nservers = [\"ldap://{nobody}\"]\nstart_tls = false\nbase = \"dc=example,dc=org\"\ntimeout = \"1s\"\n"
    );
    let output = run(directory.path(), &config(directory.path(), &more), &["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = format!("WRONG the directory {nobody} of elph.local ");
    let at = text.lines().position(|line| line.starts_with(&found));
    let next = at.and_then(|at| text.lines().nth(at + 1)).unwrap_or_default();
    assert!(next.contains("sso.realms[0].ldap: servers"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
}
