//! Whatever is wrong with a configuration is refused with its place and with what is allowed.

use std::{net::TcpListener, path::Path};

use elph_agent::config::{Config, DialectName, Fingerprint, ScopeEntry, Span, Who};

use crate::support::{Files, WHOLE, binary, load, load_with};

/// What is said about a text, with the file's name cut down.
fn refusals(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let Err(refused) = load_with(text, environment) else { return Vec::new() };
    let directory = Path::new(&refused.file).parent().unwrap().display().to_string() + "/";
    refused.to_string().lines().map(|line| line.replace(&directory, "")).collect()
}

#[test]
fn the_whole_configuration_is_accepted() {
    assert_eq!(refusals(WHOLE, &[]), Vec::<String>::new());
}

#[test]
fn every_mistake_is_refused_with_file_line_key_and_what_is_allowed() {
    let vectors: &[(&str, &str, &str)] = &[
        // (replaced, by, what is said)
        ("[switch]\n", "[swich]\n", "elph-agent.toml:1: swich: unknown key (did you mean switch?); allowed here: switch, calls,"),
        (
            "dialect = \"sim\"",
            "dialekt = \"sim\"",
            "elph-agent.toml:2: switch.dialekt: unknown key (did you mean dialect?); allowed here: domains, dialect,",
        ),
        ("\"sim\"", "\"simm\"", "elph-agent.toml:2: switch.dialect: 'simm' is not known (did you mean sim?); allowed: documented, sim"),
        (
            "name = \"biysk.local\"",
            "nme = \"biysk.local\"",
            "elph-agent.toml:5: switch.domains[0].nme: unknown key (did you mean name?); allowed here: name, csta, call_api",
        ),
        (
            "name = \"barnaul.local\"",
            "name = \"bar naul\"",
            "elph-agent.toml:8: switch.domains[1].name: a domain must be 1 to 255 characters without white space or control characters",
        ),
        (
            "name = \"barnaul.local\"",
            "name = \"biysk.local\"",
            "elph-agent.toml:8: switch.domains[1].name: stands here twice; each domain is named once",
        ),
        (
            "[\"127.0.0.1:9999\"]",
            "[\n  \"127.0.0.1:9999\",\n  \"ecss2\",\n]",
            "elph-agent.toml:13: switch.terminal.nodes[1]: 'ecss2' is no address: write host:port, for example ecss1:9999 or [2001:db8::1]:9999",
        ),
        (
            "[\"127.0.0.1:9999\"]",
            "\"127.0.0.1:9999\"",
            "elph-agent.toml:11: switch.terminal.nodes: is text; must be a list: [\"…\", \"…\"]",
        ),
        ("login = \"elph\"\n", "", "elph-agent.toml:10: switch.terminal.login: is missing; it has no default"),
        ("\"hunter2\"", "true", "elph-agent.toml:13: switch.terminal.password: is a boolean; must be a string"),
        (
            "password = \"hunter2\"\n",
            "",
            "elph-agent.toml:10: switch.terminal: has no password; set one of: password_file, password_credential, password",
        ),
        (
            "[calls]",
            "password_file = \"/x\"\n[calls]",
            "elph-agent.toml:10: switch.terminal: has more than one password; set only one of: password_file, password_credential, password",
        ),
        (
            "backend = \"poll\"",
            "backend = \"csta\"",
            "elph-agent.toml:16: calls.backend: is \"csta\" (the default), but there is no [switch.csta]; add it, or choose \"call_api\" or \"poll\"",
        ),
        (
            "[calls]",
            "[poll]\ncalls = 2\n[calls]",
            "elph-agent.toml:16: poll.calls: is a whole number; must be a duration such as \"500ms\", \"15s\", \"2m\", \"1h30m\" or \"7d\"",
        ),
        (
            "[calls]",
            "[poll]\ncalls = \"2 weeks\"\n[calls]",
            "elph-agent.toml:16: poll.calls: '2 weeks' is not understood; must be a duration such as \"500ms\"",
        ),
        ("[calls]", "[poll]\ncalls = \"1ms\"\n[calls]", "elph-agent.toml:16: poll.calls: is out of range; must be from 200ms to 1d"),
        ("[http]", "max_connections = 70000\n[http]", "elph-agent.toml:21: grpc.max_connections: is out of range; must be from 1 to 65536"),
        (
            "[http]",
            "max_connections = -1\n[http]",
            "elph-agent.toml:21: grpc.max_connections: -1 is out of range; must be a whole number from 0 to 4294967295",
        ),
        (
            "[http]",
            "socket_mode = \"rw\"\n[http]",
            "elph-agent.toml:21: grpc.socket_mode: 'rw' is not understood; must be a file mode in octal digits",
        ),
        (
            "[http]",
            "listen = \"0.0.0.0:9443\"\n[http]",
            "elph-agent.toml:18: grpc.certificate_file: is missing; grpc.listen needs certificate_file, key_file and client_ca_file",
        ),
        ("\"127.0.0.1:0\"", "\"localhost\"", "elph-agent.toml:22: http.listen: invalid socket address syntax"),
        ("format = \"json\"", "filter = \"loud=loud=loud\"", "elph-agent.toml:25: log.filter: is no filter"),
        ("[log]", "[log", "elph-agent.toml:24: is no TOML: "),
        (
            "[log]",
            "[switch.dialect_overrides.call_api]\npad = \"dots\"\n[log]",
            "elph-agent.toml:24: switch.dialect_overrides: the dialect does not fit",
        ),
        ("[log]", "[http]\nlisten = \"127.0.0.1:1\"\n[log]", "elph-agent.toml:24: is no TOML: duplicate key"),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ uid = 1 }]\ndomains = [\"*\"]\nscopes = [\"conference\"]\n[log]",
            "elph-agent.toml:28: grants[0].scopes[0]: 'conference' is not known (did you mean conferences?); allowed: calls, conferences, push, directory, events, admin, each also with :read",
        ),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ uid = 1 }]\ndomains = [\"tomsk.local\"]\nscopes = [\"calls\"]\n[log]",
            "elph-agent.toml:27: grants[0].domains[0]: 'tomsk.local' is not among switch.domains; allowed: *, barnaul.local, biysk.local",
        ),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ user_id = 1 }]\ndomains = [\"*\"]\nscopes = [\"calls\"]\n[log]",
            "elph-agent.toml:26: grants[0].who[0]: 'user_id' is not known",
        ),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ uid = 1, gid = 1 }]\ndomains = [\"*\"]\nscopes = [\"calls\"]\n[log]",
            "elph-agent.toml:26: grants[0].who[0]: must name exactly one of: uid, gid,",
        ),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ fingerprint = \"ab:cd\" }]\ndomains = [\"*\"]\nscopes = [\"calls\"]\n[log]",
            "elph-agent.toml:26: grants[0].who[0].fingerprint: is no SHA-256 fingerprint; must be 64 hexadecimal digits",
        ),
        (
            "[log]",
            "[[grants]]\nname = \"x\"\nwho = [{ uid = 1 }]\ndomains = [\"*\"]\nscopes = [\"calls\"]\nmoderator_token = \"required\"\n[log]",
            "elph-agent.toml:29: grants[0].moderator_token: is \"required\", but there is no [[oidc.issuers]]",
        ),
        (
            "[log]",
            "[[oidc.issuers]]\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"http://sso.example/keys\"\n[log]",
            "elph-agent.toml:27: oidc.issuers[0].jwks_url: must begin with https://",
        ),
        (
            "[log]",
            "[[oidc.issuers]]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"/k\"\nalgorithms = [\"HS256\"]\n[log]",
            "elph-agent.toml:28: oidc.issuers[0].algorithms[0]: 'HS256' is not known (did you mean ES256?); allowed: RS256,",
        ),
    ];
    for (replaced, by, said) in vectors {
        assert!(WHOLE.contains(replaced), "{replaced}");
        let found = refusals(&WHOLE.replacen(replaced, by, 1), &[]);
        assert!(found.iter().any(|line| line.starts_with(said)), "{by:?}\nwanted {said}\nfound  {found:#?}");
    }
}

#[test]
fn mistakes_in_several_sections_are_all_told_at_once() {
    let text = WHOLE.replace("\"sim\"", "\"x\"").replace("\"poll\"", "\"y\"").replace("format", "fromat");
    let found = refusals(&text, &[]);
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn the_environment_overrides_keys_and_its_mistakes_name_the_variable() {
    let environment = [
        ("ELPH_AGENT__SWITCH__TERMINAL__NODES", "ecss1:9999, ecss2:9999"),
        ("ELPH_AGENT__SWITCH__TERMINAL__TLS", "true"),
        ("ELPH_AGENT__SWITCH__TERMINAL__PASSWORD", "12345"),
        ("ELPH_AGENT__SWITCH__DOMAINS__1__NAME", "tomsk.local"),
        ("ELPH_AGENT__GRPC__MAX_CONNECTIONS", "7"),
        ("ELPH_AGENT__POLL__CALLS", "5s"),
        ("ELPH_AGENT__GRANTS__0__NAME", "operator"),
        ("ELPH_AGENT__GRANTS__0__WHO", "[{ uid = 0 }]"),
        ("ELPH_AGENT__GRANTS__0__DOMAINS", "*"),
        ("ELPH_AGENT__GRANTS__0__SCOPES", "[\"calls\", \"events:read\"]"),
        ("ELPH_AGENT_CONFIG", "is no key"),
    ];
    let config = load_with(WHOLE, &environment).unwrap().config;
    let terminal = config.switch.terminal.as_ref().unwrap();
    assert_eq!(terminal.nodes.len(), 2);
    assert!(terminal.tls);
    assert_eq!(config.switch.domains[1].name.as_str(), "tomsk.local");
    assert_eq!((config.grpc.max_connections, config.poll.calls), (7, Span::seconds(5)));
    assert_eq!(config.grants[0].who, [Who::Uid(0)]);
    assert_eq!(config.grants[0].scopes[1], "events:read".parse::<ScopeEntry>().unwrap());

    let wrong = [("ELPH_AGENT__GRPC__MAX_CONECTIONS", "7"), ("ELPH_AGENT__POLL__CALLS", "soon")];
    let found = refusals(WHOLE, &wrong);
    let said = |start: &str| found.iter().any(|line| line.starts_with(start));
    let unknown = "environment ELPH_AGENT__GRPC__MAX_CONECTIONS: grpc.max_conections: unknown key (did you mean max_connections?)";
    assert!(said(unknown), "{found:#?}");
    assert!(said("environment ELPH_AGENT__POLL__CALLS: poll.calls: 'soon' is not understood"), "{found:#?}");
    let found = refusals(WHOLE, &[("ELPH_AGENT__GRPC__MAX_CONNECTIONS", "many")]);
    assert_eq!(
        found,
        ["environment ELPH_AGENT__GRPC__MAX_CONNECTIONS: grpc.max_connections: is text; must be a whole number from 0 to 4294967295"]
    );
}

#[test]
fn a_bad_configuration_exits_64_before_a_port_is_bound() {
    // The port is taken: had the agent tried to bind it, the exit code would be 69.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = WHOLE.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let run = |text: &str| {
        let files = Files::new(text);
        binary().arg("run").arg("--config").arg(&files.config).output().unwrap()
    };
    let bad = run(&text.replace("backend = ", "backent = "));
    assert_eq!(bad.status.code(), Some(64));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("elph-agent.toml:16: calls.backent: unknown key (did you mean backend?)"), "{said}");
    let no_file = run(&text.replace("password = \"hunter2\"", "password_file = \"/nonexistent/password\""));
    assert_eq!(no_file.status.code(), Some(64));
    let said = String::from_utf8(no_file.stderr).unwrap();
    assert!(said.contains("elph-agent.toml:13: switch.terminal.password_file: /nonexistent/password cannot be read"), "{said}");
    assert_eq!(run(&text).status.code(), Some(69));
    assert_eq!(binary().arg("rnu").output().unwrap().status.code(), Some(64));
    assert_eq!(binary().arg("--version").output().unwrap().status.code(), Some(0));
}

#[test]
fn check_tells_problems_and_warnings_to_people_and_programs() {
    let files = Files::new(WHOLE);
    let output = binary().args(["config", "check", "--json", "--config"]).arg(&files.config).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["ok"], true);
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("elph-agent.toml:13: switch.terminal.password: stands in plain text"), "{warnings}");
    assert!(warnings.contains("no caller may do anything"), "{warnings}");
    let files = Files::new(&WHOLE.replace("json", "jason"));
    let output = binary().args(["config", "check", "--config"]).arg(&files.config).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains(":25: log.format: 'jason' is not known (did you mean json?)"));
}

#[test]
fn dump_masks_secrets_and_reads_back() {
    let files = Files::new(WHOLE);
    for flags in [&["config", "dump", "--config"][..], &["config", "dump", "--json", "--config"]] {
        let output = binary().args(flags).arg(&files.config).env("ELPH_AGENT__LOG__FILTER", "warn").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("hunter2") && text.contains("***") && text.contains("warn"), "{text}");
        if !flags.contains(&"--json") {
            assert_eq!(load(&text).to_toml().unwrap(), text, "a dump is a configuration");
        }
    }
    assert!(!format!("{:?}", load_with(WHOLE, &[]).unwrap()).contains("hunter2"));
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.schema.json")).unwrap();
    assert!(committed == Config::schema(), "run: elph-agent config schema > agent/config.schema.json");
}

#[test]
fn every_key_is_explained_in_the_schema() {
    fn look(path: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                bare.push(format!("{path}.{key}"));
            }
        }
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            look(name, definition, bare);
        }
    }
    let mut bare = Vec::new();
    look("", &serde_json::from_str(&Config::schema()).unwrap(), &mut bare);
    assert_eq!(bare, Vec::<String>::new());
}

#[test]
fn the_example_for_a_real_switch_is_accepted_and_uses_only_the_documented_dialect() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/elph-agent.example.toml");
    let output = binary().args(["config", "check", "--config", path]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let config = load(&std::fs::read_to_string(path).unwrap());
    assert_eq!(config.switch.dialect, DialectName::Documented);
    assert!(config.switch.dialect_overrides.is_empty() && config.switch.dialect_file.is_none() && config.switch.call_api.is_none());
}

#[test]
fn passwords_come_from_files_and_a_final_newline_is_not_theirs() {
    use secrecy::ExposeSecret;
    let files = Files::new("");
    let path = files.write("password", "s3cret \n");
    let text = WHOLE.replace("password = \"hunter2\"", &format!("password_file = \"{}\"", path.display()));
    let source = load(&text).switch.terminal.unwrap().password().unwrap();
    assert_eq!(source.read().unwrap().expose_secret(), "s3cret ");
    std::fs::write(&path, "\n").unwrap();
    assert!(source.read().unwrap_err().contains("is empty"));
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    assert!(source.read().unwrap_err().contains("longer than 4096 bytes"));
}

#[test]
fn a_changed_key_is_named_even_if_it_is_a_secret() {
    let old = load_with(WHOLE, &[]).unwrap();
    let same = load_with(&format!("# a comment\n{WHOLE}"), &[]).unwrap();
    assert_eq!(old.differing(&same), Vec::<String>::new());
    let text = WHOLE.replace("hunter2", "hunter3").replace("[log]", "[log]\nfilter = \"debug\"");
    let new = load_with(&text, &[]).unwrap();
    assert_eq!(old.differing(&new), ["log.filter", "switch.terminal.password"]);
}

#[test]
fn a_fingerprint_is_read_with_and_without_colons() {
    let digits = "ab".repeat(32);
    let pairs = vec!["AB"; 32].join(":");
    assert_eq!(Fingerprint::try_from(digits).unwrap(), Fingerprint::try_from(pairs).unwrap());
}

#[test]
fn keys_and_files_for_pushes_are_refused_with_the_file_and_what_to_mend() {
    let apns = "[[push.apps]]\nname = \"ios\"\nprovider = \"apns\"\ntopic = \"ru.example.elph\"\nkey_file = \"KEY\"\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\n";
    let fcm = "[[push.apps]]\nname = \"android\"\nprovider = \"fcm\"\nservice_account_file = \"KEY\"\n";
    let check = |push: &str, content: &str| {
        let files = Files::new(WHOLE);
        let key = files.write("key", content);
        std::fs::write(&files.config, format!("{WHOLE}\n{}", push.replace("KEY", key.to_str().unwrap()))).unwrap();
        let output = binary().args(["config", "check", "--config"]).arg(&files.config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (push, content, said) in [
        (apns, "no key", "push.apps[0].key_file: "),
        (apns, "no key", "/key is no key for APNs: it must be the PKCS#8 PEM of a P-256 key"),
        (fcm, "{}", "push.apps[0].service_account_file: "),
        (fcm, "{\"project_info\":{}}", "/key "),
        (&apns.replace("ABC123DEFG", "ABC"), "", "push.apps[0].key_id: must be ten letters and digits"),
        (&apns.replace("topic = \"ru.example.elph\"\n", ""), "", "push.apps[0].topic: is missing; it is the application's bundle id"),
        (&apns.replace("key_file = \"KEY\"\n", ""), "", "push.apps[0]: needs key_file or key_credential"),
        (&format!("{fcm}topic = \"a.b\"\n"), "", "push.apps[0].topic: is not for provider \"fcm\""),
        (&format!("{fcm}{fcm}"), "", "push.apps[1].name: is named twice"),
        (
            &format!("{apns}[push.apps.templates]\ncall = '{{\"a\":\"{{calller}}\"}}'\n"),
            "",
            "uses the unknown name {calller}; known are: event, call_id",
        ),
        ("[[push.events]]\ndomains = [\"*\"]\ncalls = true\n", "", "push.events: has nothing to push to"),
    ] {
        let (code, told) = check(push, content);
        assert_eq!(code, Some(64), "{push}: {told}");
        assert!(told.contains(said), "wanted {said}\nfound {told}");
        assert!(!told.contains("no key\n"), "what is in a key is not shown: {told}");
    }
    // On the host where it is written the file need not be.
    let (code, told) = check(&apns.replace("KEY", "/nonexistent/key"), "");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("warning: ") && told.contains("/nonexistent/key cannot be read"), "{told}");
}
