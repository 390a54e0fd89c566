//! Signing in: the authorization endpoint, and the pages between it and the way back to the client.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use elph_kit::Problem;
use secrecy::SecretString;
use totp_rs::{Builder, Secret, Totp};

use super::{Asked, Entered, Visit, token::CODE};
use crate::{
    authorize::{Authorization, Back, Parameters, Prompt, Refused},
    now,
    pages::{self, Code, Enrol, Frame, Language, SignIn},
    people::{self, Refusal as NotKnown},
    provider::{IDENTITY, Serving, millis},
    store::{Kind, NewCode, Opened, Session, User},
    ticket::{Purpose, Stage, Ticket},
    vault::{self, Broken, hash},
};

/// Cookies: which browser it is, and in which session.
pub(super) const BROWSER: &str = "elph_sso_browser";
pub(super) const SESSION: &str = "elph_sso_session";
/// Where forms of these pages go.
pub(super) const STEP: &str = "/login-actions/authenticate";
/// What an authenticator app's secret is sealed for.
const TOTP: &str = "totp";
/// The name of the second-factor account in the app.
const APP: &str = "Elph";
/// The longest login and password that are looked at.
const LONGEST: usize = 1024;

/// What comes of a step: an answer, or a fault that the person sees as a page.
pub(super) type Step = Result<Response, Problem>;

/// `GET …/auth`
pub(super) async fn authorize(State(serving): State<Arc<Serving>>, visit: Visit, asked: Asked) -> Response {
    begin(&serving, &visit, asked.0).await
}

/// `POST …/auth`
pub(super) async fn authorize_by_form(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    begin(&serving, &visit, entered.0).await
}

async fn begin(serving: &Serving, visit: &Visit, given: Result<Parameters, String>) -> Response {
    let given = match given {
        Ok(given) => given,
        Err(name) => return visit.refused(visit.language(serving, None), format!("the parameter {name} comes more than once")),
    };
    let language = visit.language(serving, given.get("ui_locales"));
    let request = match Authorization::check(&serving.settings, &visit.domain, &given) {
        Ok(request) => request,
        Err(Refused::Here(what)) => return visit.refused(language, what),
        Err(Refused::There { to, error, description }) => {
            return back(serving, visit, &to, &[("error", error), ("error_description", description)]);
        }
    };
    let answered = async {
        let session = session(serving, visit).await?;
        let fresh = |session: &Session| request.max_age.is_none_or(|age| session.signed_in + age.saturating_mul(1000) > now());
        // Somebody else than the client means is nobody to it.
        let meant = given
            .get("id_token_hint")
            .map(|token| serving.keys.verify(&visit.domain, &serving.settings.issuer(&visit.domain), IDENTITY, token, true));
        let is_meant = |user: &User| match &meant {
            None => true,
            Some(claims) => claims.as_ref().and_then(|claims| claims.get("sub")?.as_str()).is_some_and(|subject| subject == user.id),
        };
        match session.filter(|(session, user)| request.prompt != Prompt::Login && fresh(session) && is_meant(user)) {
            Some((session, _)) => {
                serving.used(&session).await?;
                with_code(serving, visit, &request, &session.id).await
            }
            None if request.prompt == Prompt::None => Ok(back(
                serving,
                visit,
                &request.back(),
                &[("error", "login_required"), ("error_description", "the person has to sign in")],
            )),
            None => first_page(serving, visit, language, Purpose::Client(Box::new(request.clone()))),
        }
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(language, &problem))
}

/// The sign-in page, for a browser that may have a new cookie after it.
pub(super) fn first_page(serving: &Serving, visit: &Visit, language: Language, purpose: Purpose) -> Step {
    let (browser, cookie) = browser(serving, visit)?;
    let ticket = Ticket { domain: visit.domain.clone(), browser: hash(&browser), made: now(), language, purpose, stage: Stage::Password };
    let mut response = page(serving, visit, &ticket, None, None)?;
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The browser's cookie, and the field that sets it where there was none.
pub(super) fn browser(serving: &Serving, visit: &Visit) -> Result<(String, Option<HeaderValue>), Problem> {
    if let Some(known) = visit.cookie(&name(serving, BROWSER)).filter(|known| known.len() == 43) {
        return Ok((known.to_owned(), None));
    }
    let fresh = vault::random().map_err(|error| Problem::internal(&error))?;
    let cookie = cookie(serving, visit, BROWSER, &fresh)?;
    Ok((fresh, Some(cookie)))
}

/// The page of a stage.
fn page(serving: &Serving, visit: &Visit, ticket: &Ticket, wrong: Option<&str>, login: Option<&str>) -> Step {
    let sealed = ticket.seal(&serving.vault).map_err(|error| Problem::internal(&error))?;
    let mut frame = Frame::new(ticket.language, &visit.domain, STEP, sealed);
    frame.wrong = wrong.map(str::to_owned);
    let request = match &ticket.purpose {
        Purpose::Client(request) => Some(request),
        _ => None,
    };
    let leads_to = request.map(|request| request.redirect_uri.as_str());
    // A page that says what was wrong is no success to programs.
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(match &ticket.stage {
        Stage::Code { .. } => pages::show(status, &Code { frame }, leads_to),
        Stage::Enrol { secret, alias, .. } => {
            let (image, secret) = picture(secret, alias, &visit.domain).map_err(|error| Problem::internal(&error))?;
            pages::show(status, &Enrol { frame, image, secret }, leads_to)
        }
        Stage::Password | Stage::SignedIn { .. } => {
            let client =
                request.and_then(|request| serving.settings.client(&visit.domain, &request.client)).map(|client| client.title().to_owned());
            let hint = request.and_then(|request| request.login_hint.clone());
            let login = login.map(str::to_owned).or(hint).unwrap_or_default();
            pages::show(status, &SignIn { frame, client, login }, leads_to)
        }
    })
}

/// `POST …/login-actions/authenticate`: what somebody has entered on a page.
pub(super) async fn step(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(mut ticket) = ticket(&serving, &visit, &given) else { return over(&serving, &visit, language) };
    if let Some(chosen) = given.get("language").and_then(Language::of) {
        ticket.language = chosen;
        return page(&serving, &visit, &ticket, None, None).unwrap_or_else(|problem| visit.troubled(chosen, &problem));
    }
    let language = ticket.language;
    let answered = match ticket.stage.clone() {
        Stage::Password => password(&serving, &visit, ticket, &given).await,
        Stage::Code { user_id } => code(&serving, &visit, ticket, &user_id, &given).await,
        Stage::Enrol { user_id, secret, .. } => enrol(&serving, &visit, ticket, &user_id, &secret, &given).await,
        Stage::SignedIn { .. } => Ok(over(&serving, &visit, language)),
    };
    answered.unwrap_or_else(|problem| visit.troubled(language, &problem))
}

/// The ticket of a form, if it is this browser's and not too old.
pub(super) fn ticket(serving: &Serving, visit: &Visit, given: &Parameters) -> Option<Ticket> {
    let oldest = now() - millis(serving.settings.lifetimes.sign_in);
    Ticket::open(&serving.vault, given.get("ticket")?, &visit.domain, visit.cookie(&name(serving, BROWSER)), oldest)
}

/// The page is too old, or of another browser: where the person was going cannot be known.
pub(super) fn over(serving: &Serving, visit: &Visit, language: Language) -> Response {
    let frame = Frame::new(language, &visit.domain, STEP, String::new());
    let (title, text) = (frame.texts.error, frame.texts.page_over.to_owned());
    let _ = serving;
    pages::show(StatusCode::BAD_REQUEST, &pages::Message { frame, title, text, detail: None }, None)
}

async fn password(serving: &Serving, visit: &Visit, ticket: Ticket, given: &Parameters) -> Step {
    let texts = ticket.language.texts();
    let login = given.get("username").unwrap_or_default().trim();
    let password = given.get("password").unwrap_or_default();
    let again = |wrong: &str| page(serving, visit, &ticket, Some(wrong), Some(login));
    if login.is_empty() || password.is_empty() || login.len() > LONGEST || password.len() > LONGEST {
        return again(texts.wrong_password);
    }
    if let Some(until) = attempt(serving, visit, login).await? {
        serving.metrics.sign_in("locked");
        return again(&wait(&ticket, until));
    }
    let known = serving.people.authenticate(&visit.domain, login, &SecretString::from(password.to_owned())).await;
    let person = match known {
        Ok(person) => person,
        Err(NotKnown::Wrong) => {
            serving.metrics.sign_in("wrong_password");
            tracing::info!(domain = visit.domain, address = visit.address, "a sign-in was refused");
            return again(texts.wrong_password);
        }
        Err(NotKnown::NotSubscriber) => {
            serving.metrics.sign_in("not_subscriber");
            settle(serving, visit, login, true).await?;
            return again(texts.not_subscriber);
        }
        Err(NotKnown::Unavailable(why)) => {
            serving.metrics.sign_in("unavailable");
            tracing::warn!(domain = visit.domain, why, "a password could not be checked");
            settle(serving, visit, login, false).await?;
            return again(texts.unavailable);
        }
    };
    let user = serving.store.put_user(&visit.domain, &person, now()).await?;
    let wanted = serving.people.totp(&visit.domain);
    let has = wanted != people::Totp::Off && serving.store.totp(&user.id).await?.is_some();
    // Only the last factor forgives: until then the codes are guessed at, too.
    if has {
        let stage = Stage::Code { user_id: user.id };
        return page(serving, visit, &Ticket { stage, made: now(), ..ticket }, None, None);
    }
    settle(serving, visit, login, true).await?;
    if wanted == people::Totp::Required {
        let stage = Stage::Enrol { user_id: user.id, alias: user.alias, secret: Secret::generate().to_base32() };
        return page(serving, visit, &Ticket { stage, made: now(), ..ticket }, None, None);
    }
    done(serving, visit, ticket, &user, &["pwd"]).await
}

async fn code(serving: &Serving, visit: &Visit, ticket: Ticket, user_id: &str, given: &Parameters) -> Step {
    let texts = ticket.language.texts();
    let Some(user) = serving.store.user(&visit.domain, user_id).await? else { return Ok(over(serving, visit, ticket.language)) };
    if let Some(until) = attempt(serving, visit, &user.alias).await? {
        serving.metrics.sign_in("locked");
        return page(serving, visit, &ticket, Some(&wait(&ticket, until)), None);
    }
    let sealed = serving.store.totp(&user.id).await?;
    let secret = sealed.and_then(|sealed| serving.vault.open(TOTP, &sealed)).and_then(|secret| String::from_utf8(secret).ok());
    let step = secret.and_then(|secret| matching(&secret, given.get("code").unwrap_or_default()));
    let good = match step {
        Some(step) => serving.store.use_totp(&user.id, step).await?,
        None => false,
    };
    if !good {
        serving.metrics.sign_in("wrong_code");
        tracing::info!(domain = visit.domain, address = visit.address, subject = user.id, "a code was refused");
        return page(serving, visit, &ticket, Some(texts.wrong_code), None);
    }
    settle(serving, visit, &user.alias, true).await?;
    done(serving, visit, ticket, &user, &["pwd", "otp", "mfa"]).await
}

async fn enrol(serving: &Serving, visit: &Visit, ticket: Ticket, user_id: &str, secret: &str, given: &Parameters) -> Step {
    let Some(user) = serving.store.user(&visit.domain, user_id).await? else { return Ok(over(serving, visit, ticket.language)) };
    let texts = ticket.language.texts();
    if serving.store.totp(&user.id).await?.is_some() {
        // Set up meanwhile, in another window: that one counts.
        return Ok(over(serving, visit, ticket.language));
    }
    if !keep_app(serving, &user, secret, given.get("code").unwrap_or_default()).await? {
        return page(serving, visit, &ticket, Some(texts.wrong_code), None);
    }
    done(serving, visit, ticket, &user, &["pwd", "otp", "mfa"]).await
}

/// Keeps an app's secret if the code is one of its.
pub(super) async fn keep_app(serving: &Serving, user: &User, secret: &str, code: &str) -> Result<bool, Problem> {
    let Some(step) = matching(secret, code) else { return Ok(false) };
    let sealed = serving.vault.seal(TOTP, secret.as_bytes()).map_err(|error| Problem::internal(&error))?;
    serving.store.put_totp(&user.id, sealed, step, now()).await?;
    tracing::info!(domain = user.domain, subject = user.id, "an authenticator app was set up");
    Ok(true)
}

/// Somebody has proved who they are: a session, and on to where they were going.
async fn done(serving: &Serving, visit: &Visit, ticket: Ticket, user: &User, methods: &[&str]) -> Step {
    let before = session(serving, visit).await?;
    let opened = match &before {
        Some((session, same)) if same.id == user.id => {
            serving.store.renew_session(&session.id, methods, &visit.address, &visit.agent, now()).await?
        }
        _ => {
            // Somebody else was signed in in this browser.
            if let Some((session, _)) = &before {
                serving.store.end_session(&visit.domain, &session.id, &serving.told(), now()).await?;
            }
            serving.store.open_session(user, methods, &visit.address, &visit.agent, now()).await?
        }
    };
    serving.metrics.sign_in("ok");
    tracing::info!(domain = visit.domain, subject = user.id, session = opened.id, address = visit.address, methods = ?methods, "signed in");
    let mut response = match &ticket.purpose {
        Purpose::Client(request) => with_code(serving, visit, request, &opened.id).await?,
        Purpose::Account => go(&format!("{}/account", serving.settings.issuer(&visit.domain))),
        Purpose::Device(code) => go(&format!("{}/device?user_code={code}", serving.settings.issuer(&visit.domain))),
    };
    signed_in(serving, visit, &opened, &mut response)?;
    Ok(response)
}

fn signed_in(serving: &Serving, visit: &Visit, opened: &Opened, response: &mut Response) -> Result<(), Problem> {
    response.headers_mut().append(header::SET_COOKIE, cookie(serving, visit, SESSION, &opened.cookie)?);
    Ok(())
}

/// Back to the client with a code.
async fn with_code(serving: &Serving, visit: &Visit, request: &Authorization, session_id: &str) -> Step {
    let code = NewCode {
        domain: &visit.domain,
        client: &request.client,
        session_id,
        redirect_uri: &request.redirect_uri,
        scope: &request.scope,
        nonce: request.nonce.as_deref(),
        challenge: Some(&request.challenge),
        expires: now() + millis(serving.settings.lifetimes.code),
    };
    let id = serving.store.put_code(&code).await?;
    let code = serving.vault.tagged(CODE, &id);
    // `session_state` is what Keycloak's clients read.
    Ok(back(serving, visit, &request.back(), &[("code", &code), ("session_state", session_id)]))
}

/// Back to the client.
fn back(serving: &Serving, visit: &Visit, to: &Back, answer: &[(&str, &str)]) -> Response {
    match to.with(&serving.settings.issuer(&visit.domain), answer) {
        Some(address) => go(&address),
        None => visit.refused(visit.language(serving, None), "redirect_uri cannot be understood"),
    }
}

/// Redirects with GET. The address may hold a code: it is not kept anywhere.
pub(super) fn go(address: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(address) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

// === sessions and cookies ===

/// The session of this browser.
pub(super) async fn session(serving: &Serving, visit: &Visit) -> Result<Option<(Session, User)>, sqlx::Error> {
    match visit.cookie(&name(serving, SESSION)) {
        Some(cookie) => serving.store.session_of(&visit.domain, cookie, serving.alive()).await,
        None => Ok(None),
    }
}

/// A cookie's name: with the prefix that browsers guard where we are reached encrypted (RFC 6265bis, 4.1.3.1).
fn name(serving: &Serving, name: &str) -> String {
    if serving.settings.secure() { format!("__Secure-{name}") } else { name.to_owned() }
}

/// Sets a cookie for the pages of this domain; it ends with the browser.
fn cookie(serving: &Serving, visit: &Visit, cookie: &str, value: &str) -> Result<HeaderValue, Problem> {
    field(serving, visit, cookie, value, "")
}

/// Removes the session's cookie.
pub(super) fn without_session(serving: &Serving, visit: &Visit, response: &mut Response) {
    if let Ok(field) = field(serving, visit, SESSION, "", "; Max-Age=0") {
        response.headers_mut().append(header::SET_COOKIE, field);
    }
}

fn field(serving: &Serving, visit: &Visit, cookie: &str, value: &str, more: &str) -> Result<HeaderValue, Problem> {
    let secure = if serving.settings.secure() { "; Secure" } else { "" };
    let path = format!("{}/realms/{}", crate::PREFIX, visit.domain);
    let field = format!("{}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}{more}", name(serving, cookie));
    HeaderValue::from_str(&field).map_err(|error| Problem::internal(&error))
}

// === attempts ===

/// Counts an attempt; until when to wait if it may not be made.
async fn attempt(serving: &Serving, visit: &Visit, login: &str) -> Result<Option<i64>, sqlx::Error> {
    let lockout = &serving.settings.lockout;
    if let Err(until) = serving.store.attempt(Kind::Address, &network(visit), lockout, now()).await? {
        return Ok(Some(until));
    }
    if let Err(until) = serving.store.attempt(Kind::Login, &key(visit, login), lockout, now()).await? {
        return Ok(Some(until));
    }
    Ok(None)
}

/// The attempt was no guess: it was right, or could not be made.
async fn settle(serving: &Serving, visit: &Visit, login: &str, right: bool) -> Result<(), sqlx::Error> {
    serving.store.succeeded(Kind::Address, &network(visit)).await?;
    if right {
        return serving.store.succeeded(Kind::Login, &key(visit, login)).await;
    }
    serving.store.not_made(Kind::Login, &key(visit, login)).await
}

fn key(visit: &Visit, login: &str) -> String {
    format!("{}\0{}", visit.domain, login.to_lowercase())
}

/// What one customer has: an address, in IPv6 a network of 64 bits.
pub(super) fn network(visit: &Visit) -> String {
    match visit.address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) => std::net::Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).to_string(),
        _ => visit.address.clone(),
    }
}

fn wait(ticket: &Ticket, until: i64) -> String {
    let texts = ticket.language.texts();
    let minutes = (until - now()).max(0) / 60_000 + 1;
    format!("{} {minutes} {}", texts.locked, texts.minutes)
}

// === authenticator apps ===

fn app(secret: &str, account: &str, domain: &str) -> Option<Totp> {
    let account = format!("{account}@{domain}").replace(':', "_");
    let secret = Secret::try_from_base32(secret).ok()?;
    Builder::new().with_secret(secret).with_account_name(account).with_issuer(Some(APP)).build().ok()
}

/// The step whose code this is, one step early or late included.
fn matching(secret: &str, code: &str) -> Option<i64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if code.len() != 6 || !code.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let seconds = u64::try_from(now() / 1000).ok()?;
    app(secret, "x", "x")?.check(&code, seconds).and_then(|step| i64::try_from(step).ok())
}

/// The secret as an image, and in groups of four.
pub(super) fn picture(secret: &str, account: &str, domain: &str) -> Result<(String, String), Broken> {
    let url = app(secret, account, domain).ok_or(Broken)?.to_url().map_err(|_| Broken)?;
    let image = qrcode::QrCode::new(url.as_bytes()).map_err(|_| Broken)?;
    let image = image.render::<qrcode::render::svg::Color<'_>>().min_dimensions(192, 192).build();
    // Without the XML declaration it is a part of the page.
    let image = image.find("<svg").and_then(|start| image.get(start..)).unwrap_or_default().to_owned();
    let groups = secret.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group).into_owned());
    Ok((image, groups.collect::<Vec<_>>().join(" ")))
}
