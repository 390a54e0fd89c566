//! The Status Service end to end: the simulated switch, the real agent, the real elph-server on both real databases, HTTP and WebSockets.

use anyhow::{Context, ensure};
use e2e::{
    Stack, StackOptions, eventually,
    suite::{Suite, answer},
};
use elph_kit_testing::TestDatabase;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use ssw_sim::SimOptions;

const WATCH: &str = "/elph_status/v1/watch";
const ME: &str = "/elph_status/v1/me";

fn database(database: &TestDatabase) -> String {
    format!("[database]\nurl = \"{}\"\n", database.settings.url)
}

async fn two_domains() -> anyhow::Result<Stack> {
    let sim = SimOptions { domains: vec!["a.local".to_owned(), "b.local".to_owned()], ..SimOptions::default() };
    Stack::start(StackOptions { sim, ..StackOptions::default() }).await
}

async fn watching(suite: &Suite, who: (&str, &str), aliases: &[&str]) -> anyhow::Result<e2e::suite::Live> {
    let mut live = suite.live(WATCH, &suite.token(who.0, who.1, &json!({}))?).await?;
    live.say(&json!({ "type": "watch", "aliases": aliases })).await?;
    Ok(live)
}

#[tokio::test]
async fn trial_26_a_call_is_shown_over_online_but_not_over_do_not_disturb_and_afterwards_everything_is_as_it_was() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    let place = TestDatabase::sqlite()?;
    let suite = Suite::start(&stack, &[&domain], &database(&place)).await?;
    let aliases = stack.sim.switch().aliases(&domain, 0, 2)?;
    let [one, two] = [aliases[0].as_str(), aliases[1].as_str()];

    let mut watcher = watching(&suite, (&domain, two), &[one]).await?;
    watcher.until(one, "offline").await?;
    let mut own = suite.live(WATCH, &suite.token(&domain, one, &json!({}))?).await?;
    own.say(&json!({ "type": "device", "id": "phone", "availability": "active" })).await?;
    watcher.until(one, "online").await?;

    let call = stack.talk(one, two).await?;
    watcher.until(one, "in_call").await?;
    suite.ask((&domain, one), "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "do_not_disturb" }))).await?;
    watcher.until(one, "do_not_disturb").await?;
    let (_, seen) = suite.ask((&domain, two), "GET", &format!("/elph_status/v1/users/{one}"), None).await?;
    ensure!(seen["in_call"] == true && seen["state"] == "do_not_disturb", "{seen}");
    stack.sim.switch().release_call(&domain, &call.switch_call_id)?;
    let over = async || {
        let (_, seen) = suite.ask((&domain, two), "GET", &format!("/elph_status/v1/users/{one}"), None).await.ok()?;
        (seen["in_call"] == false).then_some(seen)
    };
    let seen = eventually("the call is over", over).await?;
    ensure!(seen["state"] == "do_not_disturb", "{seen}");
    suite.ask((&domain, one), "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "auto" }))).await?;
    watcher.until(one, "online").await?;

    let conference = stack.gathered(one, &[]).await?;
    watcher.until(one, "in_conference").await?;
    ensure!(conference.connected_count == 1, "{conference:?}");
    drop(own);
    stack.stop().await
}

#[tokio::test]
async fn what_people_chose_outlives_a_crash_of_the_server_on_both_databases() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    for place in TestDatabase::both().await? {
        let mut suite = Suite::start(&stack, &[&domain], &database(&place)).await?;
        let me = (domain.as_str(), "1001");
        let until = "2099-01-01T00:00:00Z";
        suite.ask(me, "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "away", "until": until }))).await?;
        suite.ask(me, "PUT", &format!("{ME}/note"), Some(json!({ "text": "В отпуске 🏖", "until": until }))).await?;
        suite.ask(me, "PUT", &format!("{ME}/devices/desk"), Some(json!({ "availability": "active" }))).await?;
        let (status, _) = suite.ask(me, "DELETE", &format!("{ME}/devices/desk"), None).await?;
        ensure!(status == 204, "{status}");
        let (_, before) = suite.ask(me, "GET", ME, None).await?;
        ensure!(before["status"]["last_seen"].is_string() && before["choice"] == "away", "{before}");
        // Two changes at once are both written down.
        let (choice, note) = (format!("{ME}/choice"), format!("{ME}/note"));
        for number in 0..20 {
            let text = format!("{number}");
            let both = tokio::try_join!(
                suite.ask((&domain, "1007"), "PUT", &choice, Some(json!({ "choice": if number % 2 == 0 { "away" } else { "invisible" } }))),
                suite.ask((&domain, "1007"), "PUT", &note, Some(json!({ "text": text }))),
            )?;
            ensure!((both.0.0, both.1.0) == (200, 200), "{both:?}");
        }
        let (_, other) = suite.ask((&domain, "1007"), "GET", ME, None).await?;
        suite.restart(Signal::SIGKILL).await?;
        let (_, restored) = suite.ask((&domain, "1007"), "GET", ME, None).await?;
        ensure!(other == restored && restored["choice"] == "invisible" && restored["status"]["note"]["text"] == "19", "{restored}");
        let (_, after) = suite.ask(me, "GET", ME, None).await?;
        // The database has milliseconds.
        let whole = |value: &Value| {
            let mut value = value.clone();
            value["status"]["last_seen"] = value["status"]["last_seen"].as_str().and_then(|at| at.get(..19)).into();
            value
        };
        ensure!(whole(&before) == whole(&after), "{}: {before} was {after} after the crash", place.name);
        suite.ask(me, "PUT", &format!("{ME}/privacy"), Some(json!({ "last_seen": "nobody" }))).await?;
        let (_, hidden) = suite.ask((&domain, "1002"), "GET", "/elph_status/v1/users/1001", None).await?;
        ensure!(hidden.get("last_seen").is_none() && hidden["note"]["text"] == "В отпуске 🏖", "{hidden}");
        suite.end(Signal::SIGTERM).await?;
    }
    stack.stop().await
}

#[tokio::test]
async fn a_database_that_goes_away_is_told_and_when_it_is_back_everything_works_again() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    let Some(mut place) = TestDatabase::both().await?.into_iter().find(|place| place.name == "postgres") else { return Ok(()) };
    let suite = Suite::start(&stack, &[&domain], &database(&place)).await?;
    let note = || suite.ask((&domain, "1001"), "PUT", "/elph_status/v1/me/note", Some(json!({ "text": "here" })));
    ensure!(note().await?.0 == 200);
    place.end().await?;
    let (status, problem) = note().await?;
    ensure!(status == 503 && problem["code"] == "unavailable", "{status} {problem}");
    ensure!(suite.inside("/readyz").await?.0 == 503, "it is not ready without its database");
    // What needs no database is answered.
    ensure!(suite.ask((&domain, "1001"), "GET", ME, None).await?.0 == 200);
    place.start().await?;
    eventually("the database is used again", async || note().await.is_ok_and(|(status, _)| status == 200).then_some(())).await?;
    stack.stop().await
}

#[tokio::test]
async fn two_tenants_with_the_same_numbers_never_see_each_other() -> anyhow::Result<()> {
    let stack = two_domains().await?;
    let place = TestDatabase::sqlite()?;
    let suite = Suite::start(&stack, &["a.local", "b.local"], &database(&place)).await?;
    let mut other = watching(&suite, ("b.local", "1002"), &["1001"]).await?;
    other.until("1001", "offline").await?;
    suite.ask(("a.local", "1001"), "PUT", &format!("{ME}/choice"), Some(json!({ "choice": "do_not_disturb" }))).await?;
    let aliases = stack.sim.switch().aliases("a.local", 0, 2)?;
    let dialled = stack.sim.switch().dial("a.local", &aliases[0], &aliases[1])?;
    stack.sim.switch().device_answer("a.local", &aliases[1])?;
    let mut same = watching(&suite, ("a.local", "1009"), &[&aliases[1]]).await?;
    same.until(&aliases[1], "in_call").await?;
    for alias in [&aliases[0], &aliases[1]] {
        let (_, seen) = suite.ask(("b.local", "1002"), "GET", &format!("/elph_status/v1/users/{alias}"), None).await?;
        ensure!(seen["state"] == "offline" && seen["in_call"] == false, "{seen}");
    }
    // The watcher of the other domain hears of its own 1001 and of nothing before it.
    suite.ask(("b.local", "1001"), "PUT", &format!("{ME}/note"), Some(json!({ "text": "b" }))).await?;
    let heard = other.hear().await?;
    ensure!(heard["statuses"].as_array().is_some_and(|all| all.len() == 1 && all[0]["note"]["text"] == "b"), "{heard}");
    stack.sim.switch().release_call("a.local", &dialled.call)?;
    stack.stop().await
}

#[tokio::test]
async fn a_client_that_comes_back_with_its_cursor_hears_of_what_has_changed_alone() -> anyhow::Result<()> {
    let mut stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    let place = TestDatabase::sqlite()?;
    let mut suite = Suite::start(&stack, &[&domain], &database(&place)).await?;
    let everybody = ["1003", "1004", "1005"];
    let mut live = watching(&suite, (&domain, "1001"), &everybody).await?;
    let cursor = live.hear().await?["cursor"].as_str().context("no cursor")?.to_owned();
    drop(live);
    suite.ask((&domain, "1004"), "PUT", &format!("{ME}/note"), Some(json!({ "text": "changed" }))).await?;
    let again = async |suite: &Suite| -> anyhow::Result<Value> {
        let mut live = suite.live(WATCH, &suite.token(&domain, "1001", &json!({}))?).await?;
        live.say(&json!({ "type": "watch", "aliases": everybody, "after": cursor })).await?;
        live.hear().await
    };
    let heard = again(&suite).await?;
    let aliases = |heard: &Value| -> Vec<String> {
        let statuses = heard["statuses"].as_array().into_iter().flatten();
        statuses.filter_map(|status| Some(status["alias"].as_str()?.to_owned())).collect()
    };
    ensure!(aliases(&heard) == ["1004"], "{heard}");
    // A cursor of before the restart means nothing: everybody.
    suite.restart(Signal::SIGTERM).await?;
    let heard = again(&suite).await?;
    ensure!(aliases(&heard).len() == 3, "{heard}");
    // The agent's restart changes nothing of who talks.
    let numbers = stack.sim.switch().aliases(&domain, 0, 2)?;
    let mut live = watching(&suite, (&domain, "1001"), &[&numbers[0]]).await?;
    let call = stack.talk(&numbers[0], &numbers[1]).await?;
    live.until(&numbers[0], "in_call").await?;
    stack.crash_agent().await?;
    stack.sim.switch().release_call(&domain, &call.switch_call_id)?;
    live.until(&numbers[0], "offline").await?;
    stack.stop().await
}

#[tokio::test]
async fn every_bad_request_gets_a_problem_that_says_what_to_do() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    let place = TestDatabase::sqlite()?;
    let limits = "[limits]\nper_user = 1\nper_user_burst = 3\n";
    let suite = Suite::start(&stack, &[&domain], &format!("{}{limits}", database(&place))).await?;
    let token = |alias: &str, changed: Value| suite.token(&domain, alias, &changed);
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMDAxIn0.".to_owned();
    let forged = token("1", json!({}))?.rsplit_once('.').context("no signature")?.0.to_owned() + ".AAAA";
    for (what, token) in [
        ("expired", token("1", json!({ "exp": 1_700_000_000 }))?),
        ("for somebody else", token("1", json!({ "aud": "another" }))?),
        ("of another issuer", token("1", json!({ "iss": "https://evil.example" }))?),
        ("without a domain", token("1", json!({ "domain": null }))?),
        ("not valid yet", token("1", json!({ "nbf": 4_000_000_000_u64 }))?),
        ("unsigned", unsigned),
        ("forged", forged),
        ("no token", "x".to_owned()),
    ] {
        let response = suite.request("GET", ME, Some(&token))?.send().await?;
        ensure!(response.headers()["www-authenticate"] == "Bearer", "{what}");
        ensure!(response.headers()["content-type"] == "application/problem+json", "{what}");
        let (status, problem) = answer(response).await?;
        ensure!(status == 401 && problem["code"] == "unauthenticated", "{what}: {status} {problem}");
    }
    let good = |alias: &str| token(alias, json!({}));
    let choice = format!("{ME}/choice");
    let long = json!({ "text": "x".repeat(141) }).to_string();
    let huge = "x".repeat(1 << 21);
    let many = json!({ "aliases": vec!["1001"; 2001] }).to_string();
    for (number, (method, path, body, status, code)) in [
        ("GET", "/nowhere", "", 404, "not_found"),
        ("GET", "/elph_status/v1/nowhere", "", 404, "not_found"),
        ("GET", "/metrics", "", 404, "not_found"),
        ("GET", "/elph_status/metrics", "", 404, "not_found"),
        ("GET", "/elph_status/v1/../../metrics", "", 404, "not_found"),
        ("GET", WATCH, "", 426, "upgrade_required"),
        ("POST", ME, "", 405, "method_not_allowed"),
        ("PUT", &choice, "{", 400, "invalid_request"),
        ("PUT", &choice, r#"{"choice":"asleep"}"#, 400, "invalid_request"),
        ("PUT", &choice, r#"{"choice":"away","until":"2001-01-01T00:00:00Z"}"#, 400, "invalid_request"),
        ("PUT", &choice, r#"{"choice":"away","colour":"red"}"#, 400, "invalid_request"),
        ("PUT", &format!("{ME}/note"), &long, 400, "invalid_request"),
        ("PUT", &format!("{ME}/note"), &huge, 413, "too_large"),
        ("GET", "/elph_status/v1/users/a%20b", "", 400, "invalid_request"),
        ("GET", "/elph_status/v1/users/%00", "", 400, "invalid_request"),
        ("POST", "/elph_status/v1/users/lookup", &many, 400, "invalid_request"),
        ("POST", "/elph_status/v1/users/lookup", r#"{"aliases":[]}"#, 400, "invalid_request"),
    ]
    .into_iter()
    .enumerate()
    {
        let request = suite.request(method, path, Some(&good(&number.to_string())?))?.header("content-type", "application/json");
        let (got, problem) = answer(request.body(body.to_owned()).send().await?).await?;
        ensure!(got == status && problem["code"] == code, "{method} {path} {}: {got} {problem}", body.get(..60).unwrap_or(body));
        ensure!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    }
    let request = suite.request("PUT", &choice, Some(&good("text")?))?.header("content-type", "text/plain").body("{}");
    ensure!(answer(request.send().await?).await?.0 == 415);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let response = suite.request("GET", ME, Some(&good("often")?))?.send().await?;
        statuses.push((response.status().as_u16(), response.headers().contains_key("retry-after")));
    }
    ensure!(statuses.contains(&(429, true)) && statuses[0] == (200, false), "{statuses:?}");
    let log = suite.log();
    ensure!(!log.contains("eyJ"), "no token gets into the log");
    stack.stop().await
}

#[tokio::test]
async fn a_socket_says_what_was_wrong_and_lasts_no_longer_than_its_token() -> anyhow::Result<()> {
    let stack = Stack::start(StackOptions::default()).await?;
    let domain = stack.domain().to_owned();
    let place = TestDatabase::sqlite()?;
    let mut suite = Suite::start(&stack, &[&domain], &database(&place)).await?;
    let mut live = suite.live(WATCH, &suite.token(&domain, "1001", &json!({}))?).await?;
    for bad in [
        json!({ "type": "dance" }),
        json!({ "type": "watch", "aliases": ["a b"] }),
        json!({ "type": "device", "id": "", "availability": "active" }),
    ] {
        live.say(&bad).await?;
        let heard = live.hear().await?;
        ensure!(heard["type"] == "problem" && heard["detail"].is_string(), "{heard}");
    }
    let soon = jiff::Timestamp::now().as_second() + 2;
    let mut short = suite.live(WATCH, &suite.token(&domain, "1001", &json!({ "exp": soon }))?).await?;
    let closed = short.hear().await.unwrap_err().to_string();
    ensure!(closed.contains("3000"), "{closed}");
    suite.end(Signal::SIGTERM).await?;
    let closed = live.hear().await.unwrap_err().to_string();
    ensure!(closed.contains("1012"), "{closed}");
    stack.stop().await
}
