//! What programs need to know about a realm (OpenID Connect Discovery 1.0, RFC 8414), and its keys.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Problems, Visit};
use crate::{authorize::SCOPES, provider::Serving, settings::Signature};

/// Describes the realm.
#[utoipa::path(
    get, path = "/realms/{domain}/.well-known/openid-configuration", tag = "discovery", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    responses((status = 200, description = "OpenID Connect Discovery 1.0, 3.", body = Object), Problems)
)]
pub(super) async fn configuration(State(serving): State<Arc<Serving>>, visit: Visit) -> Response {
    let issuer = serving.settings.issuer(&visit.domain);
    let at = |path: &str| format!("{issuer}/protocol/openid-connect{path}");
    let authentication = ["client_secret_basic", "client_secret_post", "none"];
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": at("/auth"),
        "token_endpoint": at("/token"),
        "introspection_endpoint": at("/token/introspect"),
        "revocation_endpoint": at("/revoke"),
        "userinfo_endpoint": at("/userinfo"),
        "end_session_endpoint": at("/logout"),
        "device_authorization_endpoint": at("/auth/device"),
        "jwks_uri": at("/certs"),
        "grant_types_supported": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "code_challenge_methods_supported": ["S256"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": Signature::ALL.map(Signature::as_str),
        "token_endpoint_auth_methods_supported": authentication,
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "revocation_endpoint_auth_methods_supported": authentication,
        "scopes_supported": SCOPES,
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "amr", "sid", "azp", "domain", "preferred_username", "name", "email",
        ],
        "prompt_values_supported": ["none", "login", "select_account"],
        "ui_locales_supported": ["ru", "en"],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "require_request_uri_registration": false,
        "authorization_response_iss_parameter_supported": true,
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
    });
    ([(header::CACHE_CONTROL, "public, max-age=300"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(document)).into_response()
}

/// The keys that its tokens are signed with.
#[utoipa::path(
    get, path = "/realms/{domain}/protocol/openid-connect/certs", tag = "discovery", security(()),
    params(("domain" = String, Path, description = "The domain.")),
    responses((status = 200, description = "A JWK set (RFC 7517).", body = Object), Problems)
)]
pub(super) async fn keys(State(serving): State<Arc<Serving>>, visit: Visit) -> Response {
    let set = serving.keys.public(&visit.domain);
    ([(header::CACHE_CONTROL, "public, max-age=300"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], Json(set)).into_response()
}
