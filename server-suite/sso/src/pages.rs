//! What people see: pages in Russian and English that work without JavaScript. Nothing on them comes from elsewhere, and the content
//! security policy says so.

mod texts;

use askama::Template;
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use elph_kit::Problem;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::texts::Texts;
use crate::PREFIX;

/// The style sheet, as it is served.
pub(crate) const STYLE: &str = include_str!("../assets/sso.css");
/// Where it is served.
pub(crate) const STYLE_PATH: &str = "/assets/sso.css";

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Russian.
    #[default]
    Ru,
    /// English.
    En,
}

/// What every page has.
pub(crate) struct Frame {
    /// Its language.
    pub language: Language,
    /// Its words.
    pub texts: &'static Texts,
    /// The domain.
    pub domain: String,
    /// Where forms go.
    pub action: String,
    /// Where the style sheet is.
    pub style: String,
    /// The sealed ticket in its form.
    pub ticket: String,
    /// What was wrong with what was entered.
    pub wrong: Option<String>,
}

/// Login and password.
#[derive(Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignIn {
    /// Around it.
    pub frame: Frame,
    /// The program's name.
    pub client: Option<String>,
    /// What is in the field already.
    pub login: String,
}

/// The code of an authenticator app.
#[derive(Template)]
#[template(path = "code.html")]
pub(crate) struct Code {
    /// Around it.
    pub frame: Frame,
}

/// Setting up an authenticator app.
#[derive(Template)]
#[template(path = "enrol.html")]
pub(crate) struct Enrol {
    /// Around it.
    pub frame: Frame,
    /// The secret as an image (SVG).
    pub image: String,
    /// The secret in groups of four.
    pub secret: String,
}

/// A device's code.
#[derive(Template)]
#[template(path = "device.html")]
pub(crate) struct DeviceCode {
    /// Around it.
    pub frame: Frame,
}

/// A question with yes and no.
#[derive(Template)]
#[template(path = "confirm.html")]
pub(crate) struct Confirm {
    /// Around it.
    pub frame: Frame,
    /// The question.
    pub question: String,
    /// What to compare.
    pub detail: Option<String>,
    /// The label of yes.
    pub yes: &'static str,
    /// The label of no; none: there is only yes.
    pub no: Option<&'static str>,
}

/// Something to read.
#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message {
    /// Around it.
    pub frame: Frame,
    /// In large letters.
    pub title: &'static str,
    /// In small ones.
    pub text: String,
    /// For the support: what a program got wrong.
    pub detail: Option<String>,
}

/// Somebody's own sessions.
#[derive(Template)]
#[template(path = "account.html")]
pub(crate) struct Account {
    /// Around it.
    pub frame: Frame,
    /// Who.
    pub who: String,
    /// Where they are signed in.
    pub sessions: Vec<Row>,
    /// Whether they have an authenticator app; none: the domain wants none.
    pub app: Option<bool>,
    /// Whether it may be removed.
    pub removable: bool,
}

/// A session on the page.
pub(crate) struct Row {
    /// Its id.
    pub id: String,
    /// The program that it was opened with.
    pub agent: String,
    /// From where.
    pub address: String,
    /// When (UTC).
    pub signed_in: String,
    /// The last use (UTC).
    pub last_used: String,
    /// What uses it.
    pub clients: String,
    /// Whether it is this one.
    pub this: bool,
}

// === impl Language ===

impl Language {
    /// The one to use: what the client asks for, then what the browser does, then the configured one.
    pub(crate) fn choose(ui_locales: Option<&str>, headers: &HeaderMap, otherwise: Self) -> Self {
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asked = ui_locales.unwrap_or_default().split(' ');
        let accepted = accepted.split(',').map(|language| language.split(';').next().unwrap_or_default().trim());
        asked.chain(accepted).find_map(Self::of).unwrap_or(otherwise)
    }

    /// By its tag (RFC 5646): `en-GB`.
    pub(crate) fn of(tag: &str) -> Option<Self> {
        match tag.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "ru" => Some(Self::Ru),
            "en" => Some(Self::En),
            _ => None,
        }
    }

    /// Its tag.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Ru => "ru",
            Self::En => "en",
        }
    }

    /// The other one: its tag and its own name.
    pub(crate) fn other(self) -> (&'static str, &'static str) {
        match self {
            Self::Ru => ("en", "English"),
            Self::En => ("ru", "Русский"),
        }
    }

    /// Its words.
    pub(crate) fn texts(self) -> &'static Texts {
        match self {
            Self::Ru => &texts::RU,
            Self::En => &texts::EN,
        }
    }
}

// === impl Frame ===

impl Frame {
    /// A page whose form goes to a path of the domain.
    pub(crate) fn new(language: Language, domain: &str, action: &str, ticket: String) -> Self {
        Self {
            language,
            texts: language.texts(),
            domain: domain.to_owned(),
            action: format!("{PREFIX}/realms/{domain}{action}"),
            style: format!("{PREFIX}{STYLE_PATH}"),
            ticket,
            wrong: None,
        }
    }
}

/// A page as an answer. `leads_to`: where its form may lead in the end; browsers heed redirections, too.
pub(crate) fn show(status: StatusCode, page: &impl Template, leads_to: Option<&str>) -> Response {
    let html = match page.render() {
        Ok(html) => html,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let target = leads_to.and_then(form_target).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'{target}; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut response = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// The source expression of an address: its origin, or the scheme of an app.
fn form_target(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let origin = url.origin();
    Some(if origin.is_tuple() { format!(" {}", origin.ascii_serialization()) } else { format!(" {}:", url.scheme()) })
}

/// A time for people.
pub(crate) fn time(millis: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_which_language_then_the_browser_then_the_configuration() {
        let mut headers = HeaderMap::new();
        assert_eq!(Language::choose(None, &headers, Language::Ru), Language::Ru);
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("de-DE,de;q=0.9,en;q=0.7,ru;q=0.3"));
        assert_eq!(Language::choose(None, &headers, Language::Ru), Language::En);
        assert_eq!(Language::choose(Some("ru-RU en"), &headers, Language::En), Language::Ru);
        assert_eq!(Language::choose(Some("fr"), &headers, Language::Ru), Language::En);
    }

    #[test]
    fn what_people_enter_is_text_and_forms_lead_only_where_they_should() {
        let frame = Frame { wrong: Some("<b>".to_owned()), ..Frame::new(Language::En, "a.local", "/x", "t".to_owned()) };
        let page = SignIn { frame, client: Some("<script>".to_owned()), login: "\"><script>".to_owned() };
        let response = show(StatusCode::OK, &page, Some("org.example.elph:/back"));
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("form-action 'self' org.example.elph:;"), "{policy}");
        let html = page.render().unwrap();
        assert!(!html.contains("<script") && html.contains("&#60;b&#62;"), "{html}");
        assert_eq!(form_target("https://app.example:8443/x?y").as_deref(), Some(" https://app.example:8443"));
    }
}
