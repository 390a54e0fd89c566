//! Signing in: requests at the token endpoint beside npm's oidc-provider, and how many access tokens one core verifies.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use e2e::{
    Stack, StackOptions,
    foreign::root,
    sso::{Browser, Realm, suite, text},
};
use elph_shell::{
    oidc::{Issuer, Oidc},
    tokens::Tokens,
};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::Mutex,
};

use crate::{
    feed::PATIENCE,
    push_rivals::{node, scratch},
    report::{Better, Table, median, progress},
};

/// People who refresh at the same time, each with the token that came last.
const PEOPLE: usize = 32;
const RUNS: usize = 3;
const RUN: Duration = Duration::from_secs(5);
const TOKENS: u32 = 20_000;
/// Our row and the other's.
const RIVAL: &str = "npm oidc-provider";

/// What refreshes at one provider.
struct Party {
    url: String,
    tokens: Arc<Mutex<Vec<String>>>,
    pid: u32,
}

/// One run: requests a second, and the provider's processor milliseconds for a thousand.
struct Ran {
    per_second: f64,
    cpu: f64,
}

pub(crate) async fn run() -> anyhow::Result<Table> {
    let limits = "[limits]\nauthenticate_alias_per_minute = 1000\nauthenticate_caller_per_minute = 10000\n";
    let extra = format!("{}{limits}", StackOptions::default().extra);
    let stack = Stack::start(StackOptions { extra, ..StackOptions::default() }).await?;
    let place = scratch()?;
    let limits = "[limits]\nper_address = 1000000\nper_address_burst = 1000000\n[sso.lockout]\nattempts_per_address = 1000\n";
    let database = format!("[database]\nurl = \"sqlite:{}\"\n", place.path().join("sso.db").display());
    let suite = suite(&stack, &[stack.domain()], &format!("{database}{limits}")).await?;
    let realm = Realm::of(&suite, stack.domain())?;
    progress(&format!("sign_in, {PEOPLE} people sign in"));
    let (mut tokens, mut access) = (Vec::new(), String::new());
    for number in 1001..=1000 + PEOPLE {
        let answer = realm.tokens(&mut Browser::new()?, &number.to_string(), &format!("p{number}")).await?;
        tokens.push(text(&answer, "refresh_token")?.to_owned());
        access = text(&answer, "access_token")?.to_owned();
    }
    let ours = Party { url: realm.at("/token"), tokens: Arc::new(Mutex::new(tokens)), pid: suite.pid()? };
    let rival = Rival::start().await?;

    let (mut we, mut they) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        progress(&format!("sign_in, run {run} of {RUNS}, ours"));
        we.push(ours.refresh().await?);
        progress(&format!("sign_in, run {run} of {RUNS}, {RIVAL}"));
        they.push(rival.party.refresh().await?);
    }
    let of = |runs: &[Ran], figure: fn(&Ran) -> f64| median(runs.iter().map(figure).collect());
    let mut table = Table::new("sign_in");
    let row = table.row(format!("refreshes, {PEOPLE} people at once"), "1/s", Better::Higher, of(&we, |ran| ran.per_second));
    row.beside(RIVAL, of(&they, |ran| ran.per_second));
    let row = table.row("processor time of the provider for 1000", "ms", Better::Lower, of(&we, |ran| ran.cpu));
    row.beside(RIVAL, of(&they, |ran| ran.cpu));
    let (_, keys) = realm.get(&realm.at("/certs"), "").await?;
    let (verified, alone) = verified(&realm.issuer, &keys, &access).await?;
    table.row("access tokens verified on one core", "1/s", Better::Higher, verified).beside("jsonwebtoken alone", alone);
    table.note(
        "a refresh: the token is used up and a new one made; ours writes it to SQLite and signs an access token (ES256) and an ID token",
    );
    table.note(format!("(RS256); {RIVAL} keeps all in memory, makes an opaque access token and signs an ID token (RS256)"));
    drop(suite);
    stack.stop().await?;
    Ok(table)
}

impl Party {
    async fn refresh(&self) -> anyhow::Result<Ran> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let (began, before) = (Instant::now(), processor(self.pid)?);
        let mut people = tokio::task::JoinSet::new();
        for mut token in self.tokens.lock().await.drain(..) {
            let (client, url) = (client.clone(), self.url.clone());
            people.spawn(async move {
                let mut count = 0_u32;
                while began.elapsed() < RUN {
                    let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str()), ("client_id", "app")];
                    let answer: Value = client.post(&url).form(&fields).send().await?.json().await?;
                    text(&answer, "id_token")?;
                    token = text(&answer, "refresh_token")?.to_owned();
                    count += 1;
                }
                anyhow::Ok((count, token))
            });
        }
        let done = people.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let (took, used) = (began.elapsed().as_secs_f64(), processor(self.pid)? - before);
        let count = f64::from(done.iter().map(|(count, _)| count).sum::<u32>());
        self.tokens.lock().await.extend(done.into_iter().map(|(_, token)| token));
        Ok(Ran { per_second: count / took, cpu: used * 1e6 / count })
    }
}

/// Another provider as a process.
struct Rival {
    _child: Child,
    party: Party,
}

impl Rival {
    async fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(node());
        command.arg(root().join("tests/bench/rivals/oidc_provider.mjs")).arg(PEOPLE.to_string());
        command.env("RIVAL_MODULES", root().join("target/tools/oidc-provider/node_modules"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().context("start node")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        // It talks about its settings first.
        let ready = async {
            loop {
                let line = lines.next_line().await?.context("oidc-provider did not start; run: packaging/dev-setup bench")?;
                if line.starts_with('{') {
                    return anyhow::Ok(serde_json::from_str::<Value>(&line)?);
                }
            }
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await??;
        let port = ready.get("port").and_then(Value::as_u64).context("no port")?;
        let tokens = ready.get("tokens").and_then(Value::as_array).context("no tokens")?;
        let tokens = tokens.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let pid = child.id().context("node has ended")?;
        let party = Party { url: format!("http://127.0.0.1:{port}/token"), tokens: Arc::new(Mutex::new(tokens)), pid };
        Ok(Self { _child: child, party })
    }
}

/// Seconds of processor that a process has used.
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).context("too short")?.parse::<f64>().context("no number");
    // utime and stime are the 14th and 15th of all; ticks are hundredths of a second on Linux.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Verifications a second of our verifier, and of the library that it stands on with the key at hand.
async fn verified(issuer: &str, keys: &Value, token: &str) -> anyhow::Result<(f64, f64)> {
    let set: JwkSet = serde_json::from_value(keys.clone())?;
    let mut tokens = Tokens::new(&Oidc::default()).map_err(|(key, what)| anyhow::anyhow!("{key}: {what}"))?;
    let own = set.clone();
    tokens.trust(Issuer::own(issuer.to_owned(), "x"), Arc::new(move || own.clone()));
    let header = jsonwebtoken::decode_header(token)?;
    let jwk = set.find(header.kid.as_deref().unwrap_or_default()).context("no key")?;
    let key = DecodingKey::from_jwk(jwk)?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["elph"]);
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let began = Instant::now();
        for _ in 0..TOKENS {
            let actor = tokens.verify(token).await?;
            ensure!(!actor.subject.is_empty());
        }
        ours.push(f64::from(TOKENS) / began.elapsed().as_secs_f64());
        let began = Instant::now();
        for _ in 0..TOKENS {
            let claims = jsonwebtoken::decode::<Value>(token, &key, &validation)?.claims;
            if claims.get("sub").is_none() {
                bail!("no sub");
            }
        }
        alone.push(f64::from(TOKENS) / began.elapsed().as_secs_f64());
    }
    Ok((median(ours), median(alone)))
}
