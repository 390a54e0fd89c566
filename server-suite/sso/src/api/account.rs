//! A person's own page: where they are signed in, and their authenticator app.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::Response,
};
use elph_kit::Problem;
use totp_rs::Secret;

use super::{
    Entered, Visit,
    sign_in::{self, Step},
};
use crate::{
    now,
    pages::{self, Account, Enrol, Frame, Language, Row, time},
    people::Totp,
    provider::Serving,
    store::{Session, User},
    ticket::{Purpose, Stage, Ticket},
    vault::hash,
};

/// `GET …/account`
pub(super) async fn page(State(serving): State<Arc<Serving>>, visit: Visit) -> Response {
    let language = visit.language(&serving, None);
    let answered = async {
        match sign_in::session(&serving, &visit).await? {
            Some((session, user)) => show(&serving, &visit, language, &session, &user).await,
            None => sign_in::first_page(&serving, &visit, language, Purpose::Account),
        }
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(language, &problem))
}

async fn show(serving: &Serving, visit: &Visit, language: Language, this: &Session, user: &User) -> Step {
    let mut rows = Vec::new();
    for session in serving.store.sessions(&visit.domain, &user.id, serving.alive()).await? {
        let clients = serving.store.clients_of(&session.id).await?;
        let title = |id: &String| serving.settings.client(&visit.domain, id).map_or(id.as_str(), |client| client.title()).to_owned();
        rows.push(Row {
            this: session.id == this.id,
            clients: clients.iter().map(title).collect::<Vec<_>>().join(", "),
            signed_in: time(session.signed_in),
            last_used: time(session.last_used),
            agent: program(&session.agent),
            address: session.address,
            id: session.id,
        });
    }
    let (browser, cookie) = sign_in::browser(serving, visit)?;
    let sealed = ticket(visit, &browser, language, Stage::SignedIn { session_id: this.id.clone() });
    let frame = Frame::new(language, &visit.domain, "/account", sealed.seal(&serving.vault).map_err(|error| Problem::internal(&error))?);
    let wanted = serving.people.totp(&visit.domain);
    let app = match wanted {
        Totp::Off => None,
        Totp::Optional | Totp::Required => Some(serving.store.totp(&user.id).await?.is_some()),
    };
    let who = user.name.as_ref().map_or_else(|| user.alias.clone(), |name| format!("{name} ({})", user.alias));
    let page = Account { frame, who, sessions: rows, app, removable: wanted == Totp::Optional };
    let mut response = pages::show(StatusCode::OK, &page, None);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn ticket(visit: &Visit, browser: &str, language: Language, stage: Stage) -> Ticket {
    Ticket { domain: visit.domain.clone(), browser: hash(browser), made: now(), language, purpose: Purpose::Account, stage }
}

/// `POST …/account`
pub(super) async fn act(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(kept) = sign_in::ticket(&serving, &visit, &given) else { return sign_in::over(&serving, &visit, language) };
    let Stage::SignedIn { session_id } = &kept.stage else { return sign_in::over(&serving, &visit, language) };
    let language = given.get("language").and_then(Language::of).unwrap_or(kept.language);
    let answered = async {
        let session = sign_in::session(&serving, &visit).await?.filter(|(session, _)| session.id == *session_id);
        let Some((session, user)) = session else { return sign_in::first_page(&serving, &visit, language, Purpose::Account) };
        let here = || sign_in::go(&format!("{}/account", serving.settings.issuer(&visit.domain)));
        if let Some(id) = given.get("end") {
            let own = serving.store.sessions(&visit.domain, &user.id, serving.alive()).await?.into_iter().any(|session| session.id == id);
            if own {
                serving.store.end_session(&visit.domain, id, &serving.told(), now()).await?;
                tracing::info!(domain = visit.domain, subject = user.id, session = id, "a session was ended by its owner");
            }
            return Ok(here());
        }
        let wanted = serving.people.totp(&visit.domain);
        match given.get("app") {
            Some("add") if wanted != Totp::Off && serving.store.totp(&user.id).await?.is_none() => {
                let stage = Stage::Enrol { user_id: user.id.clone(), alias: user.alias.clone(), secret: Secret::generate().to_base32() };
                let browser = sign_in::browser(&serving, &visit)?.0;
                setting_up(&serving, &visit, &ticket(&visit, &browser, language, stage), &user, None)
            }
            Some("remove") if wanted == Totp::Optional => {
                if serving.store.remove_totp(&user.id).await? {
                    tracing::info!(domain = visit.domain, subject = user.id, "an authenticator app was removed by its owner");
                }
                Ok(here())
            }
            _ => show(&serving, &visit, language, &session, &user).await,
        }
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(language, &problem))
}

fn setting_up(serving: &Serving, visit: &Visit, ticket: &Ticket, user: &User, wrong: Option<&str>) -> Step {
    let Stage::Enrol { secret, .. } = &ticket.stage else { return Ok(sign_in::over(serving, visit, ticket.language)) };
    let (image, secret) = sign_in::picture(secret, &user.alias, &visit.domain).map_err(|error| Problem::internal(&error))?;
    let sealed = ticket.seal(&serving.vault).map_err(|error| Problem::internal(&error))?;
    let mut frame = Frame::new(ticket.language, &visit.domain, "/account/app", sealed);
    frame.wrong = wrong.map(str::to_owned);
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(pages::show(status, &Enrol { frame, image, secret }, None))
}

/// `POST …/account/app`: the first code of an app.
pub(super) async fn enrol(State(serving): State<Arc<Serving>>, visit: Visit, entered: Entered) -> Response {
    let language = visit.language(&serving, None);
    let Ok(given) = entered.0 else { return visit.refused(language, "a field comes more than once") };
    let Some(mut kept) = sign_in::ticket(&serving, &visit, &given) else { return sign_in::over(&serving, &visit, language) };
    kept.language = given.get("language").and_then(Language::of).unwrap_or(kept.language);
    let Stage::Enrol { user_id, secret, .. } = &kept.stage else { return sign_in::over(&serving, &visit, language) };
    let answered = async {
        let session = sign_in::session(&serving, &visit).await?.filter(|(_, user)| user.id == *user_id);
        let Some((_, user)) = session else { return sign_in::first_page(&serving, &visit, kept.language, Purpose::Account) };
        if given.get("language").is_some() {
            return setting_up(&serving, &visit, &kept, &user, None);
        }
        let unset = serving.store.totp(&user.id).await?.is_none();
        if unset && !sign_in::keep_app(&serving, &user, secret, given.get("code").unwrap_or_default()).await? {
            return setting_up(&serving, &visit, &kept, &user, Some(kept.language.texts().wrong_code));
        }
        Ok(sign_in::go(&format!("{}/account", serving.settings.issuer(&visit.domain))))
    };
    answered.await.unwrap_or_else(|problem: Problem| visit.troubled(kept.language, &problem))
}

/// A program as people call it, from how it names itself; those that are no browser stay as they are.
fn program(agent: &str) -> String {
    // The first that fits: most browsers name others, too.
    const BROWSERS: [(&str, &str); 7] = [
        ("YaBrowser/", "Yandex"),
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chromium/", "Chromium"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 6] =
        [("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS X", "macOS"), ("Linux", "Linux")];
    let named = |known: &[(&str, &'static str)]| known.iter().find(|(part, _)| agent.contains(part)).map(|(_, name)| *name);
    match (named(&BROWSERS), named(&SYSTEMS)) {
        (Some(browser), Some(system)) if agent.starts_with("Mozilla/") => format!("{browser}, {system}"),
        _ => agent.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_called_as_people_call_them() {
        for (agent, called) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36",
                "Chrome, Linux",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 YaBrowser/24.10 Safari/537.36",
                "Yandex, Windows",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1",
                "Safari, iPhone",
            ),
            ("Elph Desktop/2.1", "Elph Desktop/2.1"),
            ("?", "?"),
        ] {
            assert_eq!(program(agent), called);
        }
    }
}
