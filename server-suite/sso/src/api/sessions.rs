//! Sessions for programs: a person's own, and anybody's in the domain for its administrators.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use elph_kit::{
    Caller, Problem,
    input::{Json, Path},
    openapi::Alias,
    problem::Code,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problems;
use crate::{now, provider::Serving, store};

/// The role that administers a domain.
const ADMIN: &str = "admin";

/// Where somebody is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sessions {
    /// The last used first, at most 200.
    sessions: Vec<Session>,
}

/// A browser or a device that is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    /// The `sid` of its tokens.
    id: String,
    /// How the person proved who they are (RFC 8176).
    methods: Vec<String>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    signed_in: Timestamp,
    /// The last use.
    #[schema(value_type = String, format = DateTime)]
    last_used: Timestamp,
    /// The address that it came from.
    address: String,
    /// The program, as it names itself.
    agent: String,
    /// The clients that have tokens in it.
    clients: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Realm {
    domain: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Own {
    domain: String,
    id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Somebody {
    domain: String,
    alias: String,
}

/// Lists where the caller is signed in.
#[utoipa::path(
    get, path = "/realms/{domain}/account/sessions", tag = "sessions",
    params(("domain" = String, Path, description = "The caller's domain.")),
    responses((status = 200, description = "The sessions.", body = Sessions), Problems)
)]
pub(super) async fn list(State(serving): State<Arc<Serving>>, caller: Caller, Path(realm): Path<Realm>) -> Result<Json<Sessions>, Problem> {
    of_domain(&caller, &realm.domain)?;
    sessions(&serving, &realm.domain, &caller.subject).await
}

/// Ends one of the caller's sessions.
#[utoipa::path(
    delete, path = "/realms/{domain}/account/sessions/{id}", tag = "sessions",
    params(("domain" = String, Path, description = "The caller's domain."), ("id" = String, Path, description = "The session's id.")),
    responses((status = 204, description = "It has ended."), Problems)
)]
pub(super) async fn end(State(serving): State<Arc<Serving>>, caller: Caller, Path(own): Path<Own>) -> Result<StatusCode, Problem> {
    of_domain(&caller, &own.domain)?;
    let known = serving.store.sessions(&own.domain, &caller.subject, serving.alive()).await?;
    if !known.iter().any(|session| session.id == own.id) {
        return Err(Problem::not_found());
    }
    serving.store.end_session(&own.domain, &own.id, &serving.told(), now()).await?;
    tracing::info!(domain = own.domain, subject = caller.subject, session = own.id, "a session was ended by its owner");
    Ok(StatusCode::NO_CONTENT)
}

/// Lists where somebody is signed in. Needs the role `admin`.
#[utoipa::path(
    get, path = "/admin/realms/{domain}/users/{alias}/sessions", tag = "administration",
    params(("domain" = String, Path, description = "The caller's domain."), ("alias" = Alias, Path, description = "Whose.")),
    responses((status = 200, description = "The sessions.", body = Sessions), Problems)
)]
pub(super) async fn list_of(
    State(serving): State<Arc<Serving>>,
    caller: Caller,
    Path(whose): Path<Somebody>,
) -> Result<Json<Sessions>, Problem> {
    let user = somebody(&serving, &caller, &whose).await?;
    sessions(&serving, &whose.domain, &user.id).await
}

/// Signs somebody out everywhere. Needs the role `admin`.
#[utoipa::path(
    post, path = "/admin/realms/{domain}/users/{alias}/logout", tag = "administration",
    params(("domain" = String, Path, description = "The caller's domain."), ("alias" = Alias, Path, description = "Whom.")),
    responses((status = 204, description = "All their sessions have ended."), Problems)
)]
pub(super) async fn end_all_of(
    State(serving): State<Arc<Serving>>,
    caller: Caller,
    Path(whose): Path<Somebody>,
) -> Result<StatusCode, Problem> {
    let user = somebody(&serving, &caller, &whose).await?;
    serving.sign_out(&user).await?;
    tracing::info!(domain = whose.domain, subject = user.id, by = caller.subject, "an administrator has ended all sessions of a person");
    Ok(StatusCode::NO_CONTENT)
}

/// Another domain looks as if it were not there.
fn of_domain(caller: &Caller, domain: &str) -> Result<(), Problem> {
    if caller.domain == domain { Ok(()) } else { Err(Problem::not_found()) }
}

async fn somebody(serving: &Serving, caller: &Caller, whose: &Somebody) -> Result<store::User, Problem> {
    of_domain(caller, &whose.domain)?;
    if !caller.roles.iter().any(|role| role == ADMIN) {
        return Err(Problem::new(Code::Forbidden, format!("this takes the role {ADMIN}")));
    }
    serving.store.user_of(&whose.domain, &whose.alias).await?.ok_or_else(Problem::not_found)
}

async fn sessions(serving: &Serving, domain: &str, user_id: &str) -> Result<Json<Sessions>, Problem> {
    let mut sessions = Vec::new();
    for session in serving.store.sessions(domain, user_id, serving.alive()).await? {
        let at = |millis| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
        sessions.push(Session {
            clients: serving.store.clients_of(&session.id).await?,
            methods: session.methods,
            signed_in: at(session.signed_in),
            last_used: at(session.last_used),
            address: session.address,
            agent: session.agent,
            id: session.id,
        });
    }
    Ok(Json(Sessions { sessions }))
}
