//! The SSO end to end: the simulated switch knows the passwords, the real elph-server signs people in, and the Status Service takes the
//! tokens. Bad input and faults each have a test with the answer that the user or the client sees.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::{Form, Router, extract::State, routing::post};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    Stack, StackOptions, eventually,
    sso::{BACK, Browser, Realm, VERIFIER, claims, suite, text},
    suite::Suite,
};
use elph_kit_testing::TestDatabase;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use ssw_sim::SimOptions;
use tokio::sync::Mutex;
use totp_rs::{Builder, Secret};

const A: &str = "a.local";
const B: &str = "b.local";

async fn stack() -> anyhow::Result<Stack> {
    let sim = SimOptions { domains: vec![A.to_owned(), B.to_owned()], ..SimOptions::default() };
    let limits = "[limits]\nauthenticate_alias_per_minute = 1000\nauthenticate_caller_per_minute = 10000\n";
    Stack::start(StackOptions { sim, extra: format!("{}{limits}", StackOptions::default().extra), ..StackOptions::default() }).await
}

fn database(database: &TestDatabase) -> String {
    format!("[database]\nurl = \"{}\"\n", database.settings.url)
}

/// Most tests: two domains, SQLite.
async fn simple(more: &str) -> anyhow::Result<(Stack, TestDatabase, Suite)> {
    let (stack, place) = (stack().await?, TestDatabase::sqlite()?);
    let suite = suite(&stack, &[A, B], &format!("{}{more}", database(&place))).await?;
    Ok((stack, place, suite))
}

fn alias(number: u32) -> (String, String) {
    (number.to_string(), format!("p{number}"))
}

#[tokio::test]
async fn a_subscriber_signs_in_with_the_switchs_password_and_the_services_take_the_token_on_both_databases() -> anyhow::Result<()> {
    let stack = stack().await?;
    for place in TestDatabase::both().await? {
        let suite = suite(&stack, &[A, B], &database(&place)).await?;
        let realm = Realm::of(&suite, A)?;
        let mut browser = Browser::new()?;
        let page = browser.open(&realm.request(&[])?).await?;
        ensure!(page.status == 200 && page.html.contains("The App") && !page.html.contains("<script"), "{page:?}");
        let policy = page.headers["content-security-policy"].to_str()?;
        ensure!(policy.contains("default-src 'none'") && policy.contains("form-action 'self' https://app.example;"), "{policy}");
        let page = browser.sign_in(&page, "1001", "p1001").await?;
        ensure!(
            page.status == 303 && page.answer("state").as_deref() == Some("s1") && page.answer("iss").as_deref() == Some(&realm.issuer),
            "{page:?}"
        );
        let (status, tokens) = realm.exchange(&page.code()?).await?;
        ensure!(status == 200, "{status} {tokens}");
        let identity = claims(text(&tokens, "id_token")?)?;
        ensure!(identity["nonce"] == "n1" && identity["aud"] == "app" && identity["preferred_username"] == "1001", "{identity}");
        let access = text(&tokens, "access_token")?;
        let answer = realm.get(&suite.url("/elph_status/v1/me"), access).await?;
        ensure!(answer.0 == 200 && answer.1["status"]["alias"] == "1001", "{answer:?}");
        let (status, who) = realm.get(&realm.at("/userinfo"), access).await?;
        ensure!(status == 200 && who["sub"] == identity["sub"] && who["domain"] == A, "{who}");

        // Signed in already: straight back.
        let page = browser.open(&realm.request(&[("prompt", "none")])?).await?;
        page.code()?;
    }
    stack.stop().await
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_who_comes_with_a_used_one_ends_the_whole_grant() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let first = realm.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let (status, second) = realm.refresh(text(&first, "refresh_token")?).await?;
    ensure!(status == 200 && claims(text(&second, "id_token")?)?["nonce"] == "n1", "{second}");
    let (status, third) = realm.refresh(text(&second, "refresh_token")?).await?;
    ensure!(status == 200, "{third}");
    // Somebody else has it, too.
    let (status, refused) = realm.refresh(text(&first, "refresh_token")?).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "{refused}");
    let (status, refused) = realm.refresh(text(&third, "refresh_token")?).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "the newest one ended, too: {refused}");
    let (status, _) = realm.get(&realm.at("/userinfo"), text(&third, "access_token")?).await?;
    ensure!(status == 401, "so did the access token: {status}");
    let (_, metrics) = suite.inside("/metrics").await?;
    ensure!(metrics.contains("elph_server_sso_token_reuses_total 1"), "{metrics}");

    // One that nobody was given ends nothing.
    let other = realm.tokens(&mut Browser::new()?, "1002", "p1002").await?;
    let token = text(&other, "refresh_token")?;
    let (grant, _) = token.split_once('.').context("no grant")?;
    for forged in [format!("{grant}.1.AAAA"), format!("{grant}.0.{}", "A".repeat(43)), "x".to_owned()] {
        ensure!(realm.refresh(&forged).await?.0 == 400);
    }
    let (status, _) =
        realm.form_as(("web", "web's secret"), "/token", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await?;
    ensure!(status == 400, "another client's");
    let more = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "app"), ("scope", "openid roles")];
    let scope = Realm::of(&suite, A)?.form("/token", &more).await?;
    ensure!(scope.1["error"] == "invalid_scope", "{scope:?}");
    let (status, less) = realm.form("/token", &[&more[..3], &[("scope", "openid")]].concat()).await?;
    ensure!(status == 200 && less["scope"] == "openid", "the refused one was not used up: {less}");
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn of_many_who_use_one_refresh_token_at_once_one_gets_tokens() -> anyhow::Result<()> {
    let stack = stack().await?;
    for place in TestDatabase::both().await? {
        let suite = suite(&stack, &[A, B], &database(&place)).await?;
        let realm = Realm::of(&suite, A)?;
        let first = realm.tokens(&mut Browser::new()?, "1001", "p1001").await?;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (realm, token) = (realm.clone(), text(&first, "refresh_token")?.to_owned());
            all.spawn(async move { realm.refresh(&token).await });
        }
        let answers = all.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(answers.iter().filter(|(status, _)| *status == 200).count() == 1, "{}: {answers:?}", place.name);
    }
    stack.stop().await
}

#[tokio::test]
async fn a_code_is_good_once_for_its_client_address_and_verifier() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("[sso.lifetimes]\ncode = \"5s\"\n").await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let page = browser.open(&realm.request(&[])?).await?;
    let code = browser.sign_in(&page, "1001", "p1001").await?.code()?;
    let exchange = |changed: &[(&'static str, &'static str)]| {
        let mut fields = BTreeMap::from([
            ("grant_type", "authorization_code"),
            ("redirect_uri", BACK),
            ("client_id", "app"),
            ("code_verifier", VERIFIER),
        ]);
        fields.extend(changed.iter().copied());
        fields.into_iter().collect::<Vec<_>>()
    };
    for changed in [[("code_verifier", "another-verifier-of-43-characters-or-more-00")], [("redirect_uri", "https://app.example/other")]] {
        let mut fields = exchange(&changed);
        fields.push(("code", &code));
        let (status, refused) = realm.form("/token", &fields).await?;
        ensure!(status == 400 && refused["error"] == "invalid_grant", "{changed:?}: {refused}");
    }
    let mut fields = exchange(&[]);
    fields.retain(|(name, _)| *name != "client_id");
    fields.push(("code", &code));
    let (status, refused) = realm.form_as(("web", "web's secret"), "/token", &fields).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "another client: {refused}");
    let (status, refused) = Realm::of(&suite, B)?.exchange(&code).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "another domain: {refused}");
    ensure!(realm.exchange("made.up").await?.0 == 400);

    let (status, tokens) = realm.exchange(&code).await?;
    ensure!(status == 200, "{tokens}");
    let (status, refused) = realm.exchange(&code).await?;
    ensure!(status == 400 && refused["error"] == "invalid_grant", "{refused}");
    let (status, _) = realm.refresh(text(&tokens, "refresh_token")?).await?;
    ensure!(status == 400, "what came of a code that is used twice ends");

    let late = browser.open(&realm.request(&[])?).await?.code()?;
    tokio::time::sleep(Duration::from_millis(5100)).await;
    ensure!(realm.exchange(&late).await?.0 == 400, "a code that is too old");
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn a_client_proves_who_it_is_or_is_told_so() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let fields = [("grant_type", "refresh_token"), ("refresh_token", "x")];
    for secret in ["wrong", "", "web's secre", "web's secret "] {
        let (status, refused) = realm.form_as(("web", secret), "/token", &fields).await?;
        ensure!(status == 401 && refused["error"] == "invalid_client", "{secret}: {refused}");
    }
    let all = |more: &[(&'static str, &'static str)]| fields.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    for more in [vec![], vec![("client_id", "web")], vec![("client_id", "nobody")], vec![("client_id", "app"), ("client_secret", "guess")]]
    {
        let (status, refused) = realm.form("/token", &all(&more)).await?;
        ensure!(status == 401 && refused["error"] == "invalid_client", "{more:?}: {refused}");
    }
    let (status, refused) = realm.form("/token", &all(&[("client_id", "app"), ("client_id", "web")])).await?;
    ensure!(status == 400 && refused["error"] == "invalid_request", "twice: {refused}");
    let (status, refused) = realm.form_as(("web", "web's secret"), "/token", &[("grant_type", "password"), ("username", "1001")]).await?;
    ensure!(status == 400 && refused["error"] == "unsupported_grant_type", "{refused}");
    // A public client may not ask about tokens.
    let (status, _) = realm.form("/token/introspect", &[("token", "x"), ("client_id", "app")]).await?;
    ensure!(status == 401);
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn introspection_says_what_holds_now_and_revocation_ends_it() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let web = ("web", "web's secret");
    let tokens = realm.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let (access, refresh) = (text(&tokens, "access_token")?, text(&tokens, "refresh_token")?);
    for token in [access, refresh] {
        let (status, answer) = realm.form_as(web, "/token/introspect", &[("token", token)]).await?;
        ensure!(status == 200 && answer["active"] == true && answer["username"] == "1001" && answer["client_id"] == "app", "{answer}");
    }
    // Another domain knows nothing of it.
    let (_, answer) = Realm::of(&suite, B)?.form_as(web, "/token/introspect", &[("token", access)]).await?;
    ensure!(answer == json!({ "active": false }), "{answer}");
    // Another client cannot end it.
    let (status, _) = realm.form_as(web, "/revoke", &[("token", refresh)]).await?;
    ensure!(status == 200);
    ensure!(realm.form_as(web, "/token/introspect", &[("token", refresh)]).await?.1["active"] == true);
    let (status, _) = realm.form("/revoke", &[("token", access), ("client_id", "app")]).await?;
    ensure!(status == 200);
    for token in [access, refresh] {
        let (_, answer) = realm.form_as(web, "/token/introspect", &[("token", token)]).await?;
        ensure!(answer == json!({ "active": false }), "{answer}");
    }
    ensure!(realm.form("/revoke", &[("token", "unknown"), ("client_id", "app")]).await?.0 == 200, "RFC 7009, 2.2");
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn services_refuse_tokens_that_are_forged_confused_of_the_wrong_kind_or_of_another_domain() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let tokens = realm.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let access = text(&tokens, "access_token")?;
    let me = suite.url("/elph_status/v1/me");
    ensure!(realm.get(&me, access).await?.0 == 200);
    let parts: Vec<&str> = access.split('.').collect();
    let (_, keys) = realm.get(&realm.at("/certs"), "").await?;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0])?)?;
    let mut other = claims(access)?;
    other["preferred_username"] = "1002".into();
    // The public key as if it were a shared secret.
    let confused = {
        let mut header = header.clone();
        header["alg"] = "HS256".into();
        let message = format!("{}.{}", part(&header), parts[1]);
        let key = jsonwebtoken::EncodingKey::from_secret(keys["keys"][0].to_string().as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256)?;
        format!("{message}.{signature}")
    };
    let none = format!("{}.{}.", part(&json!({ "alg": "none", "typ": "at+jwt" })), parts[1]);
    for (what, token) in [
        ("an ID token", text(&tokens, "id_token")?.to_owned()),
        ("a refresh token", text(&tokens, "refresh_token")?.to_owned()),
        ("changed claims", format!("{}.{}.{}", parts[0], part(&other), parts[2])),
        ("no signature", none),
        ("a signature cut short", access[..access.len() - 4].to_owned()),
        ("the algorithm confused", confused),
        ("nothing", String::new()),
    ] {
        let (status, problem) = realm.get(&me, &token).await?;
        ensure!(status == 401 && problem["code"] == "unauthenticated", "{what}: {status} {problem}");
        ensure!(realm.get(&realm.at("/userinfo"), &token).await?.0 == 401, "{what}");
    }
    // A good one of another domain.
    for path in ["/protocol/openid-connect/userinfo", "/account/sessions"] {
        let status = realm.get(&format!("{}{path}", Realm::of(&suite, B)?.issuer), access).await?.0;
        ensure!(status == 401 || status == 404, "{path}: {status}");
    }
    let keys_of_b = Realm::of(&suite, B)?.get(&Realm::of(&suite, B)?.at("/certs"), "").await?.1;
    ensure!(keys_of_b != keys && !keys.to_string().contains("\"d\""), "keys are the domain's own, and public");
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn nobody_is_sent_to_an_address_that_the_client_has_not_named() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    for evil in [
        "https://evil.example/",
        "https://app.example.evil.example/back",
        "https://app.example/back/../../x",
        "//evil.example",
        "javascript:alert(1)",
    ] {
        let page = browser.open(&realm.request(&[("redirect_uri", evil)])?).await?;
        ensure!(page.status == 400 && page.away.is_none() && !page.html.contains(evil), "{evil}: {page:?}");
    }
    // After signing out, too.
    let tokens = realm.tokens(&mut browser, "1001", "p1001").await?;
    let hint = text(&tokens, "id_token")?;
    let page =
        browser.open(&format!("{}?id_token_hint={hint}&post_logout_redirect_uri=https://evil.example/", realm.at("/logout"))).await?;
    ensure!(page.status == 400 && page.away.is_none(), "{page:?}");
    // An error that the client may know goes to the client, and nowhere else.
    let page = browser.open(&realm.request(&[("code_challenge", "")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("invalid_request") && page.away.context("nowhere")?.as_str().starts_with(BACK));
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn a_form_of_another_browser_is_refused_and_a_session_that_was_set_from_outside_is_not_taken_over() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let (mut victim, mut attacker) = (Browser::new()?, Browser::new()?);
    // CSRF: the attacker's form, sent from the victim's browser, would sign the victim in as the attacker.
    let form = attacker.open(&realm.request(&[])?).await?;
    victim.open(&realm.request(&[])?).await?;
    let page = victim.sign_in(&form, "1001", "p1001").await?;
    ensure!(page.status == 400 && page.away.is_none() && page.html.contains("too old"), "{page:?}");
    let page = Browser::new()?.sign_in(&form, "1001", "p1001").await?;
    ensure!(page.status == 400, "no cookie at all: {page:?}");
    // A form of another domain.
    let page = attacker.open(&Realm::of(&suite, B)?.request(&[])?).await?;
    let mut crossed = form.clone();
    crossed.html = crossed.html.replace(&form.ticket().context("no ticket")?, &page.ticket().context("no ticket")?);
    ensure!(attacker.sign_in(&crossed, "1001", "p1001").await?.status == 400);

    // Fixation: the attacker's session in the victim's browser ends when the victim signs in.
    realm.tokens(&mut attacker, "1002", "p1002").await?;
    let fixed = attacker.cookies()["elph_sso_session"].clone();
    let mut victim = Browser::new()?;
    victim.cookies().insert("elph_sso_session".to_owned(), fixed.clone());
    let page = victim.open(&realm.request(&[("prompt", "login")])?).await?;
    victim.sign_in(&page, "1001", "p1001").await?.code()?;
    ensure!(victim.cookies()["elph_sso_session"] != fixed);
    let page = attacker.open(&realm.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "{page:?}");
    // Signing in again as the same person changes the cookie, too.
    let before = victim.cookies()["elph_sso_session"].clone();
    let page = victim.open(&realm.request(&[("prompt", "login")])?).await?;
    victim.sign_in(&page, "1001", "p1001").await?.code()?;
    ensure!(victim.cookies()["elph_sso_session"] != before);
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn who_guesses_passwords_has_to_wait_and_so_does_who_tries_one_password_on_many() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("[sso.lockout]\nattempts = 3\nattempts_per_address = 12\n").await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let page = browser.open(&realm.request(&[])?).await?;
    for _ in 0..3 {
        let wrong = browser.sign_in(&page, "1001", "guess").await?;
        ensure!(wrong.status == 422 && wrong.html.contains("The login or the password is wrong."), "{wrong:?}");
    }
    let locked = browser.sign_in(&page, "1001", "p1001").await?;
    ensure!(locked.html.contains("Too many attempts"), "even the right one: {locked:?}");
    // Who is not there is locked just the same: nobody learns who is.
    for attempt in 0..4 {
        let wrong = browser.sign_in(&page, "nobody", "guess").await?;
        ensure!(wrong.html.contains("Too many attempts") == (attempt == 3), "{attempt}: {wrong:?}");
    }
    browser.sign_in(&page, "1002", "p1002").await?.code()?;
    // Spraying: one password, many logins.
    let mut spraying = Browser::new()?;
    let page = spraying.open(&realm.request(&[])?).await?;
    let mut refused = None;
    for number in 1003..1020 {
        let answer = spraying.sign_in(&page, &number.to_string(), "Winter2026").await?;
        if answer.html.contains("Too many attempts") {
            refused = Some(number);
            break;
        }
    }
    ensure!(refused.is_some(), "nobody was stopped");
    let (_, metrics) = suite.inside("/metrics").await?;
    ensure!(metrics.contains("elph_server_sso_sign_ins_total{outcome=\"locked\"}"), "{metrics}");
    drop(suite);
    stack.stop().await
}

fn code_of(html: &str, ahead: u64) -> anyhow::Result<String> {
    let secret = html.split_once("<code>").and_then(|(_, rest)| rest.split_once("</code>")).context("no secret")?.0.replace(' ', "");
    code_for(&secret, ahead)
}

fn code_for(secret: &str, ahead: u64) -> anyhow::Result<String> {
    let secret = Secret::try_from_base32(secret).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let app = Builder::new().with_secret(secret).with_account_name("x").build().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let now = u64::try_from(jiff::Timestamp::now().as_second())?;
    Ok(app.generate(now + ahead * 30).to_string())
}

#[tokio::test]
async fn a_second_factor_is_set_up_asked_for_and_each_code_is_good_once() -> anyhow::Result<()> {
    let required = format!("[[sso.realms]]\ndomain = \"{A}\"\ntotp = \"required\"\n");
    let (stack, _place, suite) = simple(&required).await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let page = browser.open(&realm.request(&[])?).await?;
    let page = browser.sign_in(&page, "1001", "p1001").await?;
    ensure!(page.html.contains("<svg") && page.away.is_none(), "an app has to be set up: {page:?}");
    let wrong = browser.send(&page, &[("code", "000000")]).await?;
    ensure!(wrong.status == 422, "{wrong:?}");
    let secret = page.html.split_once("<code>").and_then(|(_, rest)| rest.split_once("</code>")).context("no secret")?.0.replace(' ', "");
    let code = code_of(&page.html, 0)?;
    let page = browser.send(&page, &[("code", &code)]).await?;
    let (_, tokens) = realm.exchange(&page.code()?).await?;
    ensure!(claims(text(&tokens, "id_token")?)?["amr"] == json!(["pwd", "otp", "mfa"]), "{tokens}");

    let mut second = Browser::new()?;
    let page = second.open(&realm.request(&[])?).await?;
    let page = second.sign_in(&page, "1001", "p1001").await?;
    ensure!(page.html.contains("authenticator app shows") && page.away.is_none(), "{page:?}");
    let replayed = second.send(&page, &[("code", &code)]).await?;
    ensure!(replayed.status == 422 && replayed.html.contains("used before"), "{replayed:?}");
    let next = code_for(&secret, 1)?;
    second.send(&page, &[("code", &next)]).await?.code()?;
    // The phone is lost: the administrator of the host removes the app, and another one has to be set up.
    let (code, told) = suite.command(&["sso", "remove-app", "--domain", A, "1001"]).await?;
    ensure!(code == Some(0) && told.contains("no authenticator app any more"), "{code:?} {told}");
    let page = second.open(&realm.request(&[("prompt", "login")])?).await?;
    let page = second.sign_in(&page, "1001", "p1001").await?;
    ensure!(page.html.contains("<svg"), "{page:?}");
    let (code, told) = suite.command(&["sso", "sign-out", "--domain", A, "1001"]).await?;
    ensure!(code == Some(0) && told.contains("2 sessions have ended"), "{code:?} {told}");
    let page = browser.open(&realm.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "{page:?}");
    let (code, told) = suite.command(&["sso", "sign-out", "--domain", A, "1050"]).await?;
    ensure!(code == Some(64) && told.contains("has ever signed in"), "{code:?} {told}");
    // The other domain wants none.
    let other = Realm::of(&suite, B)?;
    other.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn a_device_is_signed_in_from_a_browser_elsewhere() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("[sso.lifetimes]\ndevice_interval = \"1s\"\n").await?;
    let realm = Realm::of(&suite, A)?;
    let begin = async || realm.form("/auth/device", &[("client_id", "app"), ("scope", "openid")]).await;
    let (status, device) = begin().await?;
    ensure!(status == 200 && device["interval"] == 1, "{device}");
    let poll = async |device: &Value| {
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let fields = [("grant_type", grant), ("client_id", "app"), ("device_code", text(device, "device_code")?)];
        realm.form("/token", &fields).await
    };
    let (_, hasty) = begin().await?;
    ensure!(poll(&hasty).await?.1["error"] == "authorization_pending");
    ensure!(poll(&hasty).await?.1["error"] == "slow_down", "asked again at once");

    let mut browser = Browser::new()?;
    let page = browser.open(text(&device, "verification_uri")?).await?;
    let wrong = browser.send(&page, &[("user_code", "BBBB-BBBB")]).await?;
    let wrong = browser.sign_in(&wrong, "1001", "p1001").await?;
    ensure!(wrong.status == 422 && wrong.html.contains("There is no such code"), "{wrong:?}");
    let entered = text(&device, "user_code")?.to_lowercase();
    let page = browser.send(&wrong, &[("user_code", &entered)]).await?;
    ensure!(page.html.contains(text(&device, "user_code")?) && page.html.contains("The App"), "{page:?}");
    let page = browser.send(&page, &[("answer", "yes")]).await?;
    ensure!(page.html.contains("The device is connected"), "{page:?}");
    let (status, tokens) = poll(&device).await?;
    ensure!(status == 200, "{tokens}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    ensure!(poll(&device).await?.1["error"] == "invalid_grant", "once");
    ensure!(realm.get(&suite.url("/elph_status/v1/me"), text(&tokens, "access_token")?).await?.0 == 200);
    // The browser signs out; the device goes on.
    let (_, sessions) = realm.get(&format!("{}/account/sessions", realm.issuer), text(&tokens, "access_token")?).await?;
    ensure!(sessions["sessions"].as_array().map(Vec::len) == Some(2), "{sessions}");

    let (_, denied) = begin().await?;
    let page = browser.open(text(&denied, "verification_uri_complete")?).await?;
    browser.send(&page, &[("answer", "no")]).await?;
    ensure!(poll(&denied).await?.1["error"] == "access_denied");
    // Another domain's people cannot decide on it.
    let (_, crossing) = begin().await?;
    let other = Realm::of(&suite, B)?;
    let mut stranger = Browser::new()?;
    other.tokens(&mut stranger, "1001", "p1001").await?;
    let page = stranger.open(&format!("{}/device?user_code={}", other.issuer, text(&crossing, "user_code")?)).await?;
    ensure!(page.status == 422, "{page:?}");
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn people_see_where_they_are_signed_in_and_end_it() -> anyhow::Result<()> {
    let roles = format!("[[sso.realms]]\ndomain = \"{A}\"\nroles = [{{ role = \"admin\", aliases = [\"1009\"] }}]\n");
    let (stack, _place, suite) = simple(&roles).await?;
    let realm = Realm::of(&suite, A)?;
    let (mut desk, mut phone) = (Browser::new()?, Browser::new()?);
    let at_desk = realm.tokens(&mut desk, "1001", "p1001").await?;
    let on_phone = realm.tokens(&mut phone, "1001", "p1001").await?;
    let page = desk.open(&format!("{}/account", realm.issuer)).await?;
    ensure!(page.html.matches("name=\"end\"").count() == 2 && page.html.contains("this browser"), "{page:?}");
    let other = text(&on_phone, "session_state")?;
    desk.send(&page, &[("end", other)]).await?;
    ensure!(realm.refresh(text(&on_phone, "refresh_token")?).await?.0 == 400);
    ensure!(realm.refresh(text(&at_desk, "refresh_token")?).await?.0 == 200);
    let page = phone.open(&realm.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "{page:?}");

    // Programs: one's own with a token; others' only as an administrator of the domain.
    let sessions = format!("{}/account/sessions", realm.issuer);
    let (_, listed) = realm.get(&sessions, text(&at_desk, "access_token")?).await?;
    ensure!(listed["sessions"].as_array().map(Vec::len) == Some(1), "{listed}");
    let of_1001 = suite.url(&format!("/elph/auth/admin/realms/{A}/users/1001/sessions"));
    ensure!(realm.get(&of_1001, text(&at_desk, "access_token")?).await?.0 == 403);
    let admin = realm.tokens(&mut Browser::new()?, "1009", "p1009").await?;
    let (status, listed) = realm.get(&of_1001, text(&admin, "access_token")?).await?;
    ensure!(status == 200 && listed["sessions"].as_array().map(Vec::len) == Some(1), "{listed}");
    let in_b = of_1001.replace(A, B);
    ensure!(realm.get(&in_b, text(&admin, "access_token")?).await?.0 == 404, "an administrator of one domain is none in another");
    let everywhere =
        suite.request("POST", &format!("/elph/auth/admin/realms/{A}/users/1001/logout"), Some(text(&admin, "access_token")?))?;
    ensure!(everywhere.send().await?.status() == 204);
    let page = desk.open(&realm.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "{page:?}");
    drop(suite);
    stack.stop().await
}

type Heard = Arc<Mutex<Vec<String>>>;

/// A client that is told of sessions' ends; it fails the first time.
async fn told() -> anyhow::Result<(String, Heard)> {
    let heard = Heard::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}/backchannel", listener.local_addr()?);
    let router = Router::new().route("/backchannel", post(hear)).with_state(heard.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, heard))
}

async fn hear(State(heard): State<Heard>, Form(form): Form<BTreeMap<String, String>>) -> axum::http::StatusCode {
    let mut heard = heard.lock().await;
    heard.push(form.get("logout_token").cloned().unwrap_or_default());
    if heard.len() == 1 { axum::http::StatusCode::SERVICE_UNAVAILABLE } else { axum::http::StatusCode::OK }
}

#[tokio::test]
async fn a_client_that_signs_out_comes_back_and_the_others_are_told_even_if_they_fail_once_and_the_server_restarts() -> anyhow::Result<()> {
    let (address, heard) = told().await?;
    let client = format!("[[sso.clients]]\nclient_id = \"other\"\nredirect_uris = [\"{BACK}\"]\nbackchannel_logout_uri = \"{address}\"\n");
    let (stack, _place, mut suite) = simple(&client).await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let tokens = realm.tokens(&mut browser, "1001", "p1001").await?;
    let code = browser.open(&realm.request(&[("client_id", "other")])?).await?.code()?;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", BACK),
        ("client_id", "other"),
        ("code_verifier", VERIFIER),
    ];
    ensure!(realm.form("/token", &fields).await?.0 == 200);

    // Anybody could have made this link: the person is asked.
    let page = browser.open(&format!("{}?client_id=app", realm.at("/logout"))).await?;
    ensure!(page.html.contains("Do you want to sign out?"), "{page:?}");
    ensure!(heard.lock().await.is_empty());
    let bye = "https://app.example/bye";
    let out = format!("{}?id_token_hint={}&post_logout_redirect_uri={bye}&state=x", realm.at("/logout"), text(&tokens, "id_token")?);
    let page = browser.open(&out).await?;
    ensure!(page.away.as_ref().map(reqwest::Url::as_str) == Some("https://app.example/bye?state=x"), "{page:?}");
    ensure!(realm.refresh(text(&tokens, "refresh_token")?).await?.0 == 400);
    eventually("the first attempt", async || (heard.lock().await.len() == 1).then_some(())).await?;
    suite.restart(Signal::SIGKILL).await?;
    eventually("the second attempt", async || (heard.lock().await.len() == 2).then_some(())).await?;
    let token = heard.lock().await[1].clone();
    let claims = claims(&token)?;
    ensure!(
        claims["aud"] == "other"
            && claims["sid"] == tokens["session_state"]
            && claims["events"]["http://schemas.openid.net/event/backchannel-logout"].is_object(),
        "{claims}"
    );
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn a_client_may_ask_for_a_fresh_sign_in_or_for_none_at_all() -> anyhow::Result<()> {
    let (stack, _place, suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let page = browser.open(&realm.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required") && page.answer("state").as_deref() == Some("s1"), "{page:?}");
    realm.tokens(&mut browser, "1001", "p1001").await?;
    browser.open(&realm.request(&[])?).await?.code()?;
    let another = realm.tokens(&mut Browser::new()?, "1002", "p1002").await?;
    let hint = ("id_token_hint", text(&another, "id_token")?);
    let page = browser.open(&realm.request(&[("prompt", "none"), hint])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "somebody else is meant: {page:?}");
    for changed in [("prompt", "login"), ("max_age", "0"), ("prompt", "select_account")] {
        let page = browser.open(&realm.request(&[changed])?).await?;
        ensure!(page.away.is_none() && page.html.contains("name=\"password\""), "{changed:?}: {page:?}");
    }
    let page = browser.open(&realm.request(&[("login_hint", "1005\"><b>"), ("prompt", "login"), ("ui_locales", "ru")])?).await?;
    ensure!(page.html.contains("<html lang=\"ru\">") && page.html.contains("Вход"), "{page:?}");
    ensure!(!page.html.contains("1005\"") && page.html.contains("1005&#34;"), "{page:?}");
    let english = browser.send(&page, &[("language", "en")]).await?;
    ensure!(english.html.contains("Sign in"), "{english:?}");
    // In the fragment, and by a form.
    let page = browser.open(&realm.request(&[("response_mode", "fragment")])?).await?;
    ensure!(page.away.context("nowhere")?.fragment().is_some_and(|fragment| fragment.contains("code=")));
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn tokens_codes_and_sessions_outlive_a_crash_and_hold_in_every_copy() -> anyhow::Result<()> {
    let stack = stack().await?;
    for place in TestDatabase::both().await? {
        let mut suite = suite(&stack, &[A, B], &database(&place)).await?;
        let realm = Realm::of(&suite, A)?;
        let mut browser = Browser::new()?;
        let tokens = realm.tokens(&mut browser, "1001", "p1001").await?;
        let code = browser.open(&realm.request(&[])?).await?.code()?;
        suite.restart(Signal::SIGKILL).await?;
        ensure!(realm.get(&suite.url("/elph_status/v1/me"), text(&tokens, "access_token")?).await?.0 == 200, "{}", place.name);
        ensure!(realm.exchange(&code).await?.0 == 200, "{}", place.name);
        ensure!(realm.refresh(text(&tokens, "refresh_token")?).await?.0 == 200, "{}", place.name);
        browser.open(&realm.request(&[("prompt", "none")])?).await?.code()?;
    }
    stack.stop().await
}

#[tokio::test]
async fn while_the_switch_or_the_database_is_away_people_are_told_to_try_again_and_nobody_is_locked_out() -> anyhow::Result<()> {
    let mut stack = stack().await?;
    let mut places = TestDatabase::both().await?;
    let place = places.pop().context("no database")?;
    let suite = suite(&stack, &[A, B], &format!("{}[sso.lockout]\nattempts = 2\n", database(&place))).await?;
    let realm = Realm::of(&suite, A)?;
    let mut browser = Browser::new()?;
    let page = browser.open(&realm.request(&[])?).await?;
    stack.agent.kill().await?;
    for _ in 0..4 {
        let answer = browser.sign_in(&page, "1001", "p1001").await?;
        ensure!(answer.html.contains("does not answer"), "{answer:?}");
    }
    stack.crash_agent().await?;
    let mut signed_in = None;
    for _ in 0..40 {
        let answer = browser.sign_in(&page, "1001", "p1001").await?;
        if answer.away.is_some() {
            signed_in = Some(answer);
            break;
        }
        ensure!(answer.html.contains("does not answer"), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (status, tokens) = realm.exchange(&signed_in.context("nobody could sign in again")?.code()?).await?;
    ensure!(status == 200, "{tokens}");

    let mut place = place;
    place.end().await?;
    let answer = browser.open(&realm.request(&[("prompt", "login")])?).await?;
    ensure!(answer.status.is_server_error() || place.name == "sqlite", "{answer:?}");
    if place.name == "postgres" {
        ensure!(answer.status == 503 && answer.html.contains("try again"), "{answer:?}");
        let (status, refused) = realm.refresh(text(&tokens, "refresh_token")?).await?;
        ensure!(status == 503 && refused["error"] == "temporarily_unavailable", "{refused}");
        place.start().await?;
        let again = async || {
            let (status, _) = realm.refresh(text(&tokens, "refresh_token").ok()?).await.ok()?;
            (status == 200).then_some(())
        };
        eventually("the refresh token was not used up", again).await?;
    }
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn another_domains_realm_client_and_person_do_not_exist() -> anyhow::Result<()> {
    let client = format!("[[sso.clients]]\nclient_id = \"b-only\"\nredirect_uris = [\"{BACK}\"]\ndomains = [\"{B}\"]\n");
    let (stack, _place, suite) = simple(&client).await?;
    let (a, b) = (Realm::of(&suite, A)?, Realm::of(&suite, B)?);
    let mut browser = Browser::new()?;
    a.tokens(&mut browser, "1001", "p1001").await?;
    // The cookie of one domain in the other.
    let cookie = browser.cookies()["elph_sso_session"].clone();
    let mut other = Browser::new()?;
    other.cookies().insert("elph_sso_session".to_owned(), cookie);
    let page = other.open(&b.request(&[("prompt", "none")])?).await?;
    ensure!(page.answer("error").as_deref() == Some("login_required"), "{page:?}");
    let page = browser.open(&a.request(&[("client_id", "b-only")])?).await?;
    ensure!(page.status == 400, "{page:?}");
    let page = browser.open(&b.request(&[("client_id", "b-only")])?).await?;
    ensure!(page.status == 200 || page.away.is_some(), "{page:?}");
    let page = browser.open(&suite.url("/elph/auth/realms/c.local/account")).await?;
    ensure!(page.status == 404, "{page:?}");
    // The same number in two domains is two people.
    let one = a.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let two = b.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    ensure!(claims(text(&one, "id_token")?)?["sub"] != claims(text(&two, "id_token")?)?["sub"]);
    let (alias, password) = alias(1002);
    a.tokens(&mut Browser::new()?, &alias, &password).await?;
    drop(suite);
    stack.stop().await
}

#[tokio::test]
async fn behind_a_proxy_limits_and_sessions_go_by_the_clients_address_and_elsewhere_nobody_says_what_theirs_is() -> anyhow::Result<()> {
    let stack = stack().await?;
    for (trusted, shown) in [("[\"127.0.0.1\"]", "203.0.113.7"), ("[]", "127.0.0.1")] {
        let place = TestDatabase::sqlite()?;
        let more = format!("[http]\ntrusted_proxies = {trusted}\n[limits]\nper_address = 1\nper_address_burst = 10\n");
        let suite = suite(&stack, &[A, B], &format!("{}{more}", database(&place))).await?;
        let realm = Realm::of(&suite, A)?;
        let mut browser = Browser::new()?;
        browser.address = "203.0.113.7";
        let page = browser.open(&realm.request(&[])?).await?;
        let tokens = realm.exchange(&browser.sign_in(&page, "1001", "p1001").await?.code()?).await?.1;
        let (_, listed) = realm.get(&format!("{}/account/sessions", realm.issuer), text(&tokens, "access_token")?).await?;
        ensure!(listed["sessions"][0]["address"] == shown, "{listed}");
        let (mut one, mut other) = (Browser::new()?, Browser::new()?);
        (one.address, other.address) = ("203.0.113.8", "203.0.113.9");
        let mut refused = false;
        for _ in 0..20 {
            refused |= one.open(&realm.at("/certs")).await?.status == 429;
        }
        ensure!(refused, "{trusted}: nobody was stopped");
        let status = other.open(&realm.at("/certs")).await?.status;
        ensure!((status == 200) == (shown == "203.0.113.7"), "{trusted}: {status}");
    }
    stack.stop().await
}

#[tokio::test]
async fn services_elsewhere_need_only_the_issuers_address() -> anyhow::Result<()> {
    let (stack, _place, mut suite) = simple("").await?;
    let realm = Realm::of(&suite, A)?;
    let place = TestDatabase::sqlite()?;
    let issuer = format!("[[oidc.issuers]]\nissuer = \"{}\"\naudience = \"elph\"\ndomain = \"{A}\"\n", realm.issuer);
    let other = Suite::start(&stack, &[A, B], &format!("{}{issuer}", database(&place))).await?;
    let tokens = realm.tokens(&mut Browser::new()?, "1001", "p1001").await?;
    let access = text(&tokens, "access_token")?;
    let me = other.url("/elph_status/v1/me");
    ensure!(realm.get(&me, access).await?.0 == 200);
    // Its keys are known: it need not be there for each request.
    suite.end(Signal::SIGTERM).await?;
    ensure!(realm.get(&me, access).await?.0 == 200);
    ensure!(realm.get(&me, text(&tokens, "id_token")?).await?.0 == 401, "for another audience");
    drop(other);
    stack.stop().await
}
