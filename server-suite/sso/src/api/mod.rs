//! The addresses, laid out as Keycloak's: `/realms/<domain>/protocol/openid-connect/…`, since clients were written for it.

mod account;
mod device;
mod discovery;
mod logout;
mod sessions;
mod sign_in;
mod token;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Form, Router,
    extract::{ConnectInfo, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use elph_kit::{
    Problem,
    openapi::{Common, Problems},
    problem::Code,
};
use serde_json::json;
use utoipa::{
    OpenApi,
    openapi::{ContentBuilder, Ref, RefOr},
};

use crate::{
    authorize::Parameters,
    pages::{self, Frame, Language, Message},
    provider::Serving,
};

/// The longest form that is taken.
const FORM_LONGEST: usize = 64 * 1024;

/// A request of one domain.
pub(crate) struct Visit {
    /// The tenant.
    pub(crate) domain: String,
    /// From where.
    pub(crate) address: String,
    /// With what.
    pub(crate) agent: String,
    /// Cookies and languages.
    pub(crate) headers: HeaderMap,
}

/// An error of OAuth 2.0 (RFC 6749, 5.2).
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
}

/// What of the document is written by hand.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Elph SSO",
        description = "OpenID Connect provider. A realm is a domain of the switch. The flows are those of OpenID Connect Core 1.0, RFC 6749, 7636 (PKCE, always), 7009, 7662, 8628, 9207 and \
                       of Back-Channel Logout 1.0; `/.well-known/openid-configuration` describes them to programs. Errors of these protocols are `{error, error_description}`, as the standards say."
    ),
    servers((url = "/elph/auth")),
    paths(
        discovery::configuration, discovery::keys, token::token, token::introspect, token::revoke, token::userinfo,
        device::begin, sessions::list, sessions::end, sessions::list_of, sessions::end_all_of
    ),
    components(schemas(OAuthError)),
    modifiers(&Common)
)]
struct Document;

/// An error of OAuth 2.0.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct OAuthError {
    /// RFC 6749, 5.2.
    error: String,
    /// In words.
    error_description: String,
}

/// What an endpoint of the protocols may answer when it does not serve: an error of OAuth, or a problem where the request did not get so far.
pub(crate) struct Errors;

impl utoipa::IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let mut responses = Problems::responses();
        for status in ["400", "401", "500", "503"] {
            if let Some(RefOr::T(response)) = responses.get_mut(status) {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("OAuthError"))).build();
                response.content.insert("application/json".to_owned(), RefOr::T(content));
            }
        }
        responses
    }
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

pub(crate) fn routes(serving: Arc<Serving>) -> Router {
    let protocol = "/realms/{domain}/protocol/openid-connect";
    let at = |path: &str| format!("{protocol}{path}");
    Router::new()
        .route("/realms/{domain}/.well-known/openid-configuration", get(discovery::configuration))
        .route(&at("/certs"), get(discovery::keys))
        .route(&at("/auth"), get(sign_in::authorize).post(sign_in::authorize_by_form))
        .route("/realms/{domain}/login-actions/authenticate", post(sign_in::step))
        .route(&at("/token"), post(token::token))
        .route(&at("/token/introspect"), post(token::introspect))
        .route(&at("/revoke"), post(token::revoke))
        .route(&at("/userinfo"), get(token::userinfo).post(token::userinfo))
        .route(&at("/auth/device"), post(device::begin))
        .route("/realms/{domain}/device", get(device::page).post(device::enter))
        .route("/realms/{domain}/device/confirm", post(device::decide))
        .route(&at("/logout"), get(logout::page).post(logout::by_form))
        .route("/realms/{domain}/logout/confirm", post(logout::confirmed))
        .route("/realms/{domain}/account", get(account::page).post(account::act))
        .route("/realms/{domain}/account/app", post(account::enrol))
        .route("/realms/{domain}/account/sessions", get(sessions::list))
        .route("/realms/{domain}/account/sessions/{id}", delete(sessions::end))
        .route("/admin/realms/{domain}/users/{alias}/sessions", get(sessions::list_of))
        .route("/admin/realms/{domain}/users/{alias}/logout", post(sessions::end_all_of))
        .route(pages::STYLE_PATH, get(style))
        .layer(axum::extract::DefaultBodyLimit::max(FORM_LONGEST))
        .with_state(serving)
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=3600")], pages::STYLE)
}

// === impl Visit ===

impl FromRequestParts<Arc<Serving>> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, serving: &Arc<Serving>) -> Result<Self, Response> {
        // Some routes have more in their path.
        let path: Result<Path<BTreeMap<String, String>>, _> = Path::from_request_parts(parts, serving).await;
        let domain = path.ok().and_then(|Path(mut path)| path.remove("domain")).unwrap_or_default();
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip().to_canonical().to_string());
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("?");
        let visit = Self {
            domain,
            address: address.unwrap_or_else(|| "?".to_owned()),
            agent: agent.chars().take(200).collect(),
            headers: parts.headers.clone(),
        };
        if serving.has(&visit.domain) {
            return Ok(visit);
        }
        let language = visit.language(serving, None);
        let person =
            parts.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"));
        if !person {
            return Err(Problem::not_found().into_response());
        }
        // What was asked for is not repeated: it is not one of ours.
        let frame = Frame::new(language, "", "", String::new());
        let (title, text) = (frame.texts.unknown_realm, frame.texts.error_text.to_owned());
        Err(pages::show(StatusCode::NOT_FOUND, &Message { frame, title, text, detail: None }, None))
    }
}

impl Visit {
    pub(crate) fn language(&self, serving: &Serving, ui_locales: Option<&str>) -> Language {
        Language::choose(ui_locales, &self.headers, serving.settings.language)
    }

    /// A cookie's value.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let fields = self.headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
        let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The page that says that something of ours does not work.
    pub(crate) fn troubled(&self, language: Language, problem: &Problem) -> Response {
        let frame = Frame::new(language, &self.domain, "", String::new());
        let (title, text) = (frame.texts.trouble, frame.texts.trouble_text.to_owned());
        pages::show(problem.code().status(), &Message { frame, title, text, detail: None }, None)
    }

    /// The page that says that a program is wrong.
    pub(crate) fn refused(&self, language: Language, detail: impl Into<String>) -> Response {
        let frame = Frame::new(language, &self.domain, "", String::new());
        let (title, text) = (frame.texts.error, frame.texts.error_text.to_owned());
        pages::show(StatusCode::BAD_REQUEST, &Message { frame, title, text, detail: Some(detail.into()) }, None)
    }
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into() }
    }

    pub(crate) fn error(&self) -> &'static str {
        self.error
    }

    /// The client is not known, or has not proved who it is.
    pub(crate) fn client() -> Self {
        let description = "the client is not known here, or its secret is wrong or missing";
        Self { status: StatusCode::UNAUTHORIZED, ..Self::new("invalid_client", description) }
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        let problem = Problem::from(error);
        Self { status: problem.code().status(), error: "temporarily_unavailable", description: problem.detail().to_owned() }
    }
}

impl From<crate::vault::Broken> for Refusal {
    fn from(error: crate::vault::Broken) -> Self {
        let problem = Problem::internal(&error);
        Self { status: problem.code().status(), error: "server_error", description: problem.detail().to_owned() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = axum::Json(json!({ "error": self.error, "error_description": self.description }));
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"clients\""));
        }
        response
    }
}

// === parameters ===

/// The parameters of an address.
pub(crate) struct Asked(pub(crate) Result<Parameters, String>);

/// The parameters of a form.
pub(crate) struct Entered(pub(crate) Result<Parameters, String>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        Ok(Self(query.map_err(|_| "?".to_owned()).and_then(|Query(pairs)| Parameters::new(pairs))))
    }
}

impl<S: Send + Sync> axum::extract::FromRequest<S> for Entered {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Form::<Vec<(String, String)>>::from_request(request, state).await {
            Ok(Form(pairs)) => Ok(Self(Parameters::new(pairs))),
            Err(error) => Err(match error.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::TooLarge, "the form is longer than is taken here"),
                StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                    Problem::new(Code::UnsupportedMediaType, "send a form with content-type: application/x-www-form-urlencoded")
                }
                _ => Problem::new(Code::InvalidRequest, "the form cannot be understood"),
            }),
        }
    }
}

/// Those of an OAuth request; one that comes twice is refused.
pub(crate) fn once(given: Result<Parameters, String>) -> Result<Parameters, Refusal> {
    given.map_err(|name| Refusal::new("invalid_request", format!("the parameter {name} comes more than once")))
}
