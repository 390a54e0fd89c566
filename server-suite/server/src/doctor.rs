//! `elph-server doctor`: what an operator would look at, beside the running server and without changing anything: configuration and
//! files, database, agents and their domains, issuers, directories, clock, certificate, addresses, open files.

use std::{path::PathBuf, time::Duration};

use elph_kit::{
    database::Database,
    switches::{AgentSettings, Switches},
};
use elph_proto::v1::{ListDomainsRequest, directory_service_client::DirectoryServiceClient};
use elph_shell::{
    config::Refused,
    findings::Findings,
    tokens::{TokenError, Tokens},
    told,
};
use tokio::time::timeout;

use crate::config::{Config, Loaded};

/// How long one look may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// A certificate that ends sooner than this is to be renewed.
const SOON_S: i64 = 14 * 86_400;
/// Clocks that differ more make tokens end too early or too late.
const CLOCK_S: i64 = 10;
/// Files that are open beside connections.
const BESIDE: u64 = 1024;
/// What keeps tables, and notes in `_migrations_<name>` how far they are.
const KEEPERS: [&str; 3] = ["bus", "sso", "status"];

/// Looks at everything. The time it takes is bounded.
pub(crate) async fn examine(loaded: &Loaded) -> Findings {
    let mut findings = Findings::default();
    let file = loaded.path.display().to_string();
    findings.well(format!("{file} is read and every key is known"));
    for line in Refused::lines(&file, &loaded.warnings) {
        findings.know(line, "change the key, or leave it if that is what you want");
    }
    let unusable = Refused::lines(&file, &loaded.unusable());
    for line in &unusable {
        findings.wrong(line, "put the file there, readable for the user that elph-server runs as (elph-server.service: User=)");
    }
    let config = &loaded.config;
    certificate(&mut findings, config);
    database(&mut findings, config).await;
    agents(&mut findings, config).await;
    issuers(&mut findings, config).await;
    directories(&mut findings, config).await;
    synchronised(&mut findings);
    addresses(&mut findings, config).await;
    open_files(&mut findings, config);
    findings
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn certificate(findings: &mut Findings, config: &Config) {
    let Some(path) = &config.http.certificate_file else { return };
    // That it cannot be read was said already.
    let chain = elph_shell::tls::certificates(path).unwrap_or_default();
    let Some(end) = chain.first().and_then(elph_shell::tls::expiry) else { return };
    let renew = "put a new one into http.certificate_file and http.key_file, then: systemctl reload elph-server";
    match end.saturating_sub(now()) {
        left @ ..=0 => findings.wrong(format!("the certificate has expired {} days ago", left.saturating_neg() / 86_400), renew),
        left @ 1..SOON_S => findings.know(format!("the certificate expires in {} days", left / 86_400), renew),
        left => findings.well(format!("the certificate is valid for {} days", left / 86_400)),
    }
}

/// The file of a SQLite database.
fn sqlite(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
}

async fn database(findings: &mut Findings, config: &Config) {
    let file = sqlite(&config.database.url);
    // Opening would make it.
    if let Some(path) = file.as_ref().filter(|path| !path.exists()) {
        let there = path.parent().is_some_and(std::path::Path::is_dir);
        let what = format!("the database {} is not there yet", path.display());
        if there {
            findings.know(what, "the first start makes it");
        } else {
            findings.wrong(what, "make its directory, and give it to the user that elph-server runs as");
        }
        return;
    }
    let advice = if file.is_some() {
        "look at the file's owner and mode, and at the room on its disk (df)"
    } else {
        "start PostgreSQL, let this host in (pg_hba.conf), and correct database.url and the password"
    };
    let database = match timeout(DEADLINE, Database::open(&config.database)).await {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => return findings.wrong(format!("database: {}", told(&error)), advice),
        Err(_) => return findings.wrong(format!("the database does not answer within {}s", DEADLINE.as_secs()), advice),
    };
    findings.well("the database can be opened");
    let mut missing = Vec::new();
    for keeper in KEEPERS {
        // The name is one of ours.
        let query = format!("SELECT CAST(MAX(version) AS BIGINT) FROM _migrations_{keeper}");
        let asked = sqlx::query_scalar::<_, Option<i64>>(sqlx::AssertSqlSafe(query)).fetch_one(database.pool());
        match timeout(DEADLINE, asked).await {
            Ok(Ok(Some(version))) => findings.well(format!("the tables of {keeper} are at version {version}")),
            _ => missing.push(keeper),
        }
    }
    if !missing.is_empty() {
        let what = format!("the tables of {} are not there yet", missing.join(", "));
        findings.know(what, "elph-server run makes those that it needs; elph-server db migrate makes all of them now");
    }
    if file.is_none() {
        let query = "SELECT CAST(EXTRACT(EPOCH FROM now()) AS BIGINT)";
        if let Ok(Ok(theirs)) = timeout(DEADLINE, sqlx::query_scalar::<_, i64>(query).fetch_one(database.pool())).await {
            let ahead = now().saturating_sub(theirs);
            if ahead.abs() > CLOCK_S {
                findings.wrong(format!("this host's clock is {ahead}s ahead of the database's"), "let both be set by NTP: timedatectl");
            } else {
                findings.well("this host's clock is the database's");
            }
        }
    }
    let _closed = timeout(DEADLINE, database.close()).await;
}

async fn agents(findings: &mut Findings, config: &Config) {
    let switches = match Switches::new(&config.agents) {
        Ok(switches) => switches,
        Err((key, what)) => return findings.wrong(format!("{key}: {what}"), "correct the key"),
    };
    for settings in &config.agents {
        let Some(channel) = settings.domains.first().and_then(|domain| switches.of(domain)) else { continue };
        let mut client = DirectoryServiceClient::new(channel);
        match timeout(DEADLINE, client.list_domains(ListDomainsRequest {})).await {
            Ok(Ok(answer)) => {
                let granted: Vec<String> = answer.into_inner().domains.into_iter().map(|domain| domain.name).collect();
                domains(findings, settings, &granted);
            }
            Ok(Err(status)) => {
                let (code, text) = (elph_proto::reason::code_name(status.code()), status.message());
                findings.wrong(format!("agent {}: {code}: {text}", settings.address), unreachable(settings, code));
            }
            Err(_) => {
                let what = format!("agent {} does not answer within {}s", settings.address, DEADLINE.as_secs());
                findings.wrong(what, unreachable(settings, "DEADLINE_EXCEEDED"));
            }
        }
    }
}

fn domains(findings: &mut Findings, settings: &AgentSettings, granted: &[String]) {
    findings.well(format!("agent {} answers", settings.address));
    for domain in &settings.domains {
        if granted.contains(domain) {
            findings.well(format!("agent {} lets us into {domain}", settings.address));
        } else {
            findings.wrong(
                format!("agent {} does not let us into {domain}", settings.address),
                "add the domain to our [[grants]] in elph-agent.toml, and see in 'elphctl domains' that the switch has it",
            );
        }
    }
}

fn unreachable(settings: &AgentSettings, code: &str) -> String {
    match code {
        "PERMISSION_DENIED" | "UNAUTHENTICATED" => {
            "give us [[grants]] with the scopes directory (directory:read without [sso]), calls and events:read in elph-agent.toml, by our uid or our \
             certificate"
                .to_owned()
        }
        _ if settings.address.starts_with("unix:") => {
            "start elph-agent, and add the user that elph-server runs as to the group elph-agent: usermod -aG elph-agent elph-server"
                .to_owned()
        }
        _ => "start elph-agent, let this host reach its port, and correct ca_file, certificate_file and key_file".to_owned(),
    }
}

/// Whether the issuers' keys can be had: a token that names the issuer and is signed by nobody makes the verifier fetch them.
async fn issuers(findings: &mut Findings, config: &Config) {
    if let Some(sso) = &config.sso {
        findings.well(format!("{} is the issuer of every domain: its keys are in the database", sso.public_url));
    }
    let Ok(tokens) = Tokens::new(&config.oidc) else { return };
    for (index, issuer) in config.oidc.issuers.iter().enumerate() {
        let Some(algorithm) = issuer.algorithms.first() else { continue };
        let token = unsigned(&format!("{algorithm:?}"), &issuer.issuer);
        let advice = format!("let this host reach it, and correct oidc.issuers[{index}].jwks_url, jwks_file or ca_file");
        match timeout(DEADLINE, tokens.verify(&token)).await {
            Ok(Err(TokenError::KeysUnavailable)) => findings.wrong(format!("the keys of {} cannot be had", issuer.issuer), advice),
            Ok(Err(_)) => findings.well(format!("the keys of {} can be had", issuer.issuer)),
            Ok(Ok(_)) => findings.wrong(format!("{} vouches for a token that nobody has signed", issuer.issuer), "tell its maker"),
            Err(_) => findings.wrong(format!("{} does not answer within {}s", issuer.issuer, DEADLINE.as_secs()), advice),
        }
    }
}

/// Whether the directories let us look people up.
async fn directories(findings: &mut Findings, config: &Config) {
    for (index, realm) in config.sso.iter().flat_map(|sso| &sso.realms).enumerate() {
        let key = format!("sso.realms[{index}].ldap");
        let looks = match elph_sso::people::look(realm).await {
            Ok(looks) => looks,
            Err((inner, what)) => {
                findings.wrong(format!("{key}.{inner}: {what}"), "correct the key, or put the file there");
                continue;
            }
        };
        for (server, look) in looks {
            match look {
                Ok(()) => findings.well(format!("the directory {server} of {} shows its people and groups", realm.domain)),
                Err(why) => {
                    let advice = format!(
                        "let this host reach it, and correct {key}: servers, ca_file, bind_dn and its password, base; and the groups of the roles"
                    );
                    findings.wrong(format!("the directory {server} of {} {why}", realm.domain), advice);
                }
            }
        }
    }
}

fn unsigned(algorithm: &str, issuer: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(serde_json::json!({ "alg": algorithm, "kid": "elph-server doctor" }));
    let body = part(serde_json::json!({ "iss": issuer, "sub": "elph-server doctor", "exp": now() }));
    format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode([0; 64]))
}

/// Tokens, second factors and certificates live by the clock.
fn synchronised(findings: &mut Findings) {
    // Of systemd-timesyncd, chrony and ntpsec.
    let signs = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];
    if signs.iter().any(|sign| std::path::Path::new(sign).exists()) {
        findings.well("something sets this host's clock");
    } else {
        findings.know("nothing is seen that sets this host's clock", "see timedatectl; in a container the host's clock counts");
    }
}

async fn addresses(findings: &mut Findings, config: &Config) {
    for (key, address) in [("http.listen", config.http.listen), ("http.internal_listen", config.http.internal_listen)] {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => findings.well(format!("{key} {address} is free")),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                findings.know(format!("{key} {address} is in use"), "by elph-server if it runs; otherwise stop who has it: ss -ltnp");
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                findings
                    .know(format!("{key} {address} may not be opened by this user"), "the unit gives CAP_NET_BIND_SERVICE; look as root");
            }
            Err(error) => findings.wrong(format!("{key} {address} cannot be opened: {error}"), "name an address that this host has"),
        }
    }
}

fn open_files(findings: &mut Findings, config: &Config) {
    let wanted = u64::try_from(config.http.max_connections).unwrap_or(u64::MAX).saturating_add(BESIDE);
    let Ok((_, most)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) else { return };
    if most >= wanted {
        findings.well(format!("{most} files may be open, http.max_connections wants {wanted}"));
    } else {
        let advice = format!("LimitNOFILE={wanted} in the unit, ulimit -Hn {wanted} here, or a smaller http.max_connections");
        findings.know(format!("only {most} files may be open here, http.max_connections wants {wanted}"), advice);
    }
}
