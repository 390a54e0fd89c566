//! Signing out (OpenID Connect RP-Initiated Logout 1.0). A client that shows the ID token is believed; anybody else could have made the
//! link, so the person is asked.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use elph_kit::Problem;
use reqwest::Url;
use serde_json::Value;

use super::{Asked, Entered, Visit, once, sign_in, token::client};
use crate::{
    authorize::Parameters,
    now,
    pages::{self, Confirm, Frame, Language, Message},
    provider::{IDENTITY, Serving},
    ticket::{Purpose, Stage, Ticket},
    vault::hash,
};

/// `GET …/logout`
pub(super) async fn page(State(serving): State<Arc<Serving>>, visit: Visit, asked: Asked) -> Response {
    begin(&serving, &visit, asked.0).await
}

/// `POST …/logout`: the same, or, as Keycloak has it, a client's back channel with a refresh token.
pub(super) async fn by_form(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    match entered.0 {
        Ok(given) if given.get("refresh_token").is_some() => by_token(&serving, &visit, given).await,
        given => begin(&serving, &visit, given).await,
    }
}

async fn by_token(serving: &Serving, visit: &Visit, given: Parameters) -> Response {
    let ended = async {
        let given = once(Ok(given))?;
        let client = client(serving, visit, &given)?;
        if let Some((id, _)) = given.get("refresh_token").and_then(|token| serving.refresh_token(token))
            && let Some(grant) = serving.store.grant(&visit.domain, id).await?.filter(|grant| grant.client == client.client_id)
        {
            serving.store.end_session(&visit.domain, &grant.session_id, &serving.told(), now()).await?;
        }
        Ok(StatusCode::NO_CONTENT)
    };
    let ended: Result<StatusCode, super::Refusal> = ended.await;
    ended.into_response()
}

async fn begin(serving: &Serving, visit: &Visit, given: Result<Parameters, String>) -> Response {
    let given = match given {
        Ok(given) => given,
        Err(name) => return visit.refused(visit.language(serving, None), format!("the parameter {name} comes more than once")),
    };
    let language = visit.language(serving, given.get("ui_locales"));
    let hint = match given.get("id_token_hint") {
        None => None,
        Some(token) => match serving.keys.verify(&visit.domain, &serving.settings.issuer(&visit.domain), IDENTITY, token, true) {
            Some(claims) => Some(claims),
            None => return visit.refused(language, "id_token_hint is none of ours"),
        },
    };
    let word = |name: &str| hint.as_ref().and_then(|claims| claims.get(name)).and_then(Value::as_str);
    if let (Some(named), Some(audience)) = (given.get("client_id"), word("aud"))
        && named != audience
    {
        return visit.refused(language, "client_id is not the audience of id_token_hint");
    }
    let client = word("aud").or(given.get("client_id")).and_then(|id| serving.settings.client(&visit.domain, id));
    let target = match given.get("post_logout_redirect_uri") {
        None => None,
        Some(uri) if client.is_some_and(|client| client.post_logout_redirect_uris.iter().any(|known| known == uri)) => {
            Some(target(uri, given.get("state")))
        }
        Some(_) => {
            return visit.refused(
                language,
                "post_logout_redirect_uri is none of those that the client has named; send client_id or id_token_hint with it",
            );
        }
    };
    let answered = async {
        let session = sign_in::session(serving, visit).await?;
        match (&session, word("sid")) {
            // The client knows the session: it is the one that signs out, even from a browser that has lost its cookie.
            (Some((session, _)), Some(sid)) if session.id == sid => end(serving, visit, language, sid, target.as_deref()).await,
            (None, Some(sid)) => end(serving, visit, language, sid, target.as_deref()).await,
            (None, None) => Ok(bye(serving, visit, language, target.as_deref())),
            (Some(_), _) => ask(serving, visit, language, target.as_deref()),
        }
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(language, &problem))
}

fn target(uri: &str, state: Option<&str>) -> String {
    match (Url::parse(uri), state) {
        (Ok(mut url), Some(state)) => {
            url.query_pairs_mut().append_pair("state", state);
            url.into()
        }
        _ => uri.to_owned(),
    }
}

fn ask(serving: &Serving, visit: &Visit, language: Language, target: Option<&str>) -> Result<Response, Problem> {
    let (browser, cookie) = sign_in::browser(serving, visit)?;
    let (purpose, stage) = (Purpose::Account, Stage::SignedIn { session_id: target.unwrap_or_default().to_owned() });
    let ticket = Ticket { domain: visit.domain.clone(), browser: hash(&browser), made: now(), language, purpose, stage };
    let sealed = ticket.seal(&serving.vault).map_err(|error| Problem::internal(&error))?;
    let frame = Frame::new(language, &visit.domain, "/logout/confirm", sealed);
    let (question, yes) = (frame.texts.sign_out_question.to_owned(), frame.texts.sign_out);
    let mut response = pages::show(StatusCode::OK, &Confirm { frame, question, detail: None, yes, no: None }, target);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// `POST …/logout/confirm`
pub(super) async fn confirmed(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(ticket) = sign_in::ticket(&serving, &visit, &given) else { return sign_in::over(&serving, &visit, language) };
    let Stage::SignedIn { session_id: target } = &ticket.stage else { return sign_in::over(&serving, &visit, language) };
    let target = Some(target.as_str()).filter(|target| !target.is_empty());
    let answered = async {
        if let Some(chosen) = given.get("language").and_then(Language::of) {
            return ask(&serving, &visit, chosen, target);
        }
        match sign_in::session(&serving, &visit).await? {
            Some((session, _)) => end(&serving, &visit, ticket.language, &session.id, target).await,
            None => Ok(bye(&serving, &visit, ticket.language, target)),
        }
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(ticket.language, &problem))
}

async fn end(serving: &Serving, visit: &Visit, language: Language, session_id: &str, target: Option<&str>) -> Result<Response, Problem> {
    if serving.store.end_session(&visit.domain, session_id, &serving.told(), now()).await? {
        tracing::info!(domain = visit.domain, session = session_id, "signed out");
    }
    let mut response = bye(serving, visit, language, target);
    sign_in::without_session(serving, visit, &mut response);
    Ok(response)
}

fn bye(_: &Serving, visit: &Visit, language: Language, target: Option<&str>) -> Response {
    if let Some(target) = target {
        return sign_in::go(target);
    }
    let frame = Frame::new(language, &visit.domain, "", String::new());
    let (title, text) = (frame.texts.signed_out, frame.texts.signed_out_text.to_owned());
    pages::show(StatusCode::OK, &Message { frame, title, text, detail: None }, None)
}
