//! Devices without a browser of their own, or with a better one elsewhere (RFC 8628).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::Response,
};
use elph_kit::Problem;
use rand::Rng;
use serde_json::{Value, json};

use super::{
    Asked, Entered, Errors, Refusal, Visit, once,
    sign_in::{self, Step},
    token::{DEVICE, client},
};
use crate::{
    authorize::known_scopes,
    now,
    pages::{self, Confirm, DeviceCode, Frame, Language, Message},
    provider::{Serving, millis},
    settings::GrantType,
    store::{DeviceState, Kind},
    ticket::{Purpose, Stage, Ticket},
    vault::{self, hash},
};

/// Letters of codes that people enter: none that looks like another, and no vowels, so that no words come of it (RFC 8628, 6.1).
const LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
/// How many of them.
const LENGTH: usize = 8;
/// How often another code is tried when one is taken.
const TRIES: usize = 5;

/// Begins to sign in on a device.
#[utoipa::path(
    post, path = "/realms/{domain}/protocol/openid-connect/auth/device", tag = "tokens", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "RFC 8628, 3.1."),
    responses(
        (status = 200, description = "RFC 8628, 3.2.", body = Object),
        Errors
    )
)]
pub(super) async fn begin(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Result<Json<Value>, Refusal> {
    let given = once(entered.0)?;
    let client = client(&serving, &visit, &given)?;
    if !client.grant_types.contains(&GrantType::DeviceCode) {
        return Err(Refusal::new("unauthorized_client", "this client may not sign in on devices"));
    }
    let scope = known_scopes(given.get("scope").unwrap_or_default());
    let code = vault::random()?;
    let id = hash(&code);
    let lifetimes = &serving.settings.lifetimes;
    let (life, interval) = (millis(lifetimes.device_code), millis(lifetimes.device_interval));
    for _ in 0..TRIES {
        let user_code = user_code();
        let kept = serving.store.put_device(&visit.domain, &id, &client.client_id, &user_code, &scope, now() + life, interval);
        if kept.await? {
            let address = format!("{}/device", serving.settings.issuer(&visit.domain));
            let shown = shown(&user_code);
            return Ok(Json(json!({
                "device_code": serving.vault.tagged(DEVICE, &code), "user_code": shown, "verification_uri": address,
                "verification_uri_complete": format!("{address}?user_code={shown}"), "expires_in": life / 1000, "interval": interval / 1000,
            })));
        }
    }
    Err(Refusal::new("temporarily_unavailable", "too many devices wait; try again"))
}

fn user_code() -> String {
    let mut random = rand::rng();
    (0..LENGTH).filter_map(|_| LETTERS.get(random.random_range(0..LETTERS.len()))).map(|letter| char::from(*letter)).collect()
}

/// As people read it.
fn shown(code: &str) -> String {
    let (first, second) = code.split_at_checked(LENGTH / 2).unwrap_or((code, ""));
    format!("{first}-{second}")
}

/// As it is kept, whatever people make of it.
fn kept(entered: &str) -> String {
    entered.to_ascii_uppercase().chars().filter(|c| c.is_ascii_alphabetic()).take(LENGTH).collect()
}

/// `GET …/device`
pub(super) async fn page(State(serving): State<Arc<Serving>>, visit: Visit, asked: Asked) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = asked.0 else { return visit.refused(language, "a parameter comes more than once") };
    let answered = match given.get("user_code").map(kept) {
        Some(code) => look(&serving, &visit, language, &code).await,
        None => form(&serving, &visit, language, None),
    };
    answered.unwrap_or_else(|problem| visit.troubled(language, &problem))
}

/// `POST …/device`
pub(super) async fn enter(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(ticket) = sign_in::ticket(&serving, &visit, &given) else { return sign_in::over(&serving, &visit, language) };
    let language = given.get("language").and_then(Language::of).unwrap_or(ticket.language);
    let answered = match given.get("user_code").map(kept) {
        Some(code) => look(&serving, &visit, language, &code).await,
        None => form(&serving, &visit, language, None),
    };
    answered.unwrap_or_else(|problem| visit.troubled(language, &problem))
}

/// Where a code is entered.
fn form(serving: &Serving, visit: &Visit, language: Language, wrong: Option<&str>) -> Step {
    let (browser, cookie) = sign_in::browser(serving, visit)?;
    let purpose = Purpose::Device(String::new());
    let ticket = Ticket { domain: visit.domain.clone(), browser: hash(&browser), made: now(), language, purpose, stage: Stage::Password };
    let sealed = ticket.seal(&serving.vault).map_err(|error| Problem::internal(&error))?;
    let mut frame = Frame::new(language, &visit.domain, "/device", sealed);
    frame.wrong = wrong.map(str::to_owned);
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let mut response = pages::show(status, &DeviceCode { frame }, None);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A code was entered: who is there signs in first, then is asked.
async fn look(serving: &Serving, visit: &Visit, language: Language, code: &str) -> Step {
    let Some((session, _)) = sign_in::session(serving, visit).await? else {
        return sign_in::first_page(serving, visit, language, Purpose::Device(code.to_owned()));
    };
    // Only who is signed in learns whether there is such a code, and not often.
    let (lockout, network) = (&serving.settings.lockout, format!("device\0{}", sign_in::network(visit)));
    if serving.store.attempt(Kind::Address, &network, lockout, now()).await?.is_err() {
        return form(serving, visit, language, Some(language.texts().wrong_device));
    }
    let device = serving.store.device(&visit.domain, code, now()).await?;
    let Some(device) = device.filter(|device| device.state == DeviceState::Pending) else {
        return form(serving, visit, language, Some(language.texts().wrong_device));
    };
    serving.store.succeeded(Kind::Address, &network).await?;
    ask(serving, visit, language, &device.client, code, &session.id)
}

fn ask(serving: &Serving, visit: &Visit, language: Language, client: &str, code: &str, session_id: &str) -> Step {
    let (browser, cookie) = sign_in::browser(serving, visit)?;
    let ticket = Ticket {
        domain: visit.domain.clone(),
        browser: hash(&browser),
        made: now(),
        language,
        purpose: Purpose::Device(code.to_owned()),
        stage: Stage::SignedIn { session_id: session_id.to_owned() },
    };
    let sealed = ticket.seal(&serving.vault).map_err(|error| Problem::internal(&error))?;
    let frame = Frame::new(language, &visit.domain, "/device/confirm", sealed);
    let title = serving.settings.client(&visit.domain, client).map_or(client, |client| client.title());
    let (yes, no) = (frame.texts.allow, Some(frame.texts.deny));
    let question = format!("{} ({title})", frame.texts.device_question);
    let mut response = pages::show(StatusCode::OK, &Confirm { frame, question, detail: Some(shown(code)), yes, no }, None);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// `POST …/device/confirm`
pub(super) async fn decide(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(ticket) = sign_in::ticket(&serving, &visit, &given) else { return sign_in::over(&serving, &visit, language) };
    let (Purpose::Device(code), Stage::SignedIn { session_id }) = (&ticket.purpose, &ticket.stage) else {
        return sign_in::over(&serving, &visit, language);
    };
    let answered = async {
        // Who has signed out since, or is somebody else now, has not said this.
        let session = sign_in::session(&serving, &visit).await?.filter(|(session, _)| session.id == *session_id);
        let Some((session, user)) = session else { return Ok(sign_in::over(&serving, &visit, ticket.language)) };
        if let Some(chosen) = given.get("language").and_then(Language::of) {
            let Some(device) = serving.store.device(&visit.domain, code, now()).await? else { return form(&serving, &visit, chosen, None) };
            return ask(&serving, &visit, chosen, &device.client, code, &session.id);
        }
        let yes = given.get("answer") == Some("yes");
        if !serving.store.decide(&visit.domain, code, yes.then_some(session.id.as_str()), now()).await? {
            return form(&serving, &visit, ticket.language, Some(ticket.language.texts().wrong_device));
        }
        tracing::info!(domain = visit.domain, subject = user.id, allowed = yes, "a device was decided on");
        let frame = Frame::new(ticket.language, &visit.domain, "", String::new());
        let (title, text) = match yes {
            true => (frame.texts.device_done, frame.texts.device_done_text),
            false => (frame.texts.device_denied, frame.texts.device_denied_text),
        };
        Ok(pages::show(StatusCode::OK, &Message { title, text: text.to_owned(), detail: None, frame }, None))
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(ticket.language, &problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_people_enter_it() {
        let code = user_code();
        assert_eq!(code.len(), LENGTH);
        for entered in [shown(&code), shown(&code).to_lowercase(), format!(" {} ", shown(&code).replace('-', " "))] {
            assert_eq!(kept(&entered), code);
        }
    }
}
