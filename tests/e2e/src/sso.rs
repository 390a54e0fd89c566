//! People's side of the SSO: a small browser with cookies and forms, and a client that signs them in.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{StatusCode, Url, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{PATIENCE, Stack, suite::Suite};

/// Where the test's client lets people come back to.
pub const BACK: &str = "https://app.example/back";
/// A verifier of PKCE, and its challenge.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Most redirections that are followed.
const REDIRECTIONS: usize = 5;

/// A suite with the SSO in it, reachable at a port that was free a moment ago.
pub async fn suite(stack: &Stack, domains: &[&str], more: &str) -> anyhow::Result<Suite> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[sso]\npublic_url = \"http://127.0.0.1:{port}\"\nsecret = \"a secret of at least 32 characters\"\n\
         [[sso.clients]]\nclient_id = \"app\"\nclient_name = \"The App\"\nredirect_uris = [\"{BACK}\"]\n\
         grant_types = [\"authorization_code\", \"refresh_token\", \"urn:ietf:params:oauth:grant-type:device_code\"]\n\
         post_logout_redirect_uris = [\"https://app.example/bye\"]\n\
         [[sso.clients]]\nclient_id = \"web\"\nsecret = \"web's secret\"\nredirect_uris = [\"{BACK}\"]\n"
    );
    let (mut table, more): (toml::Table, toml::Table) = (toml::from_str(&config)?, toml::from_str(more)?);
    // Further clients, not others in place of these.
    let clients = |table: &toml::Table| table.get("sso").and_then(|sso| sso.get("clients")?.as_array().cloned()).unwrap_or_default();
    let all = [clients(&table), clients(&more)].concat();
    crate::merge(&mut table, more);
    if let Some(sso) = table.get_mut("sso").and_then(toml::Value::as_table_mut) {
        sso.insert("clients".to_owned(), all.into());
    }
    Suite::start(stack, domains, &toml::to_string(&table)?).await
}

/// A person's browser.
pub struct Browser {
    http: reqwest::Client,
    jar: BTreeMap<String, String>,
    /// `Accept-Language`.
    pub language: &'static str,
    /// `X-Real-IP`, as a proxy writes it, or somebody who would like to be one.
    pub address: &'static str,
}

/// What a browser shows.
#[derive(Debug, Clone)]
pub struct Page {
    /// The status code.
    pub status: StatusCode,
    /// Where it is.
    pub url: Url,
    /// The HTML.
    pub html: String,
    /// The fields of the answer.
    pub headers: header::HeaderMap,
    /// Where it leads outside, when it does.
    pub away: Option<Url>,
}

/// A domain's provider, from outside.
#[derive(Clone)]
pub struct Realm {
    /// The issuer.
    pub issuer: String,
    http: reqwest::Client,
}

impl Browser {
    /// A new one, without cookies.
    pub fn new() -> anyhow::Result<Self> {
        Self::trusting(None)
    }

    /// One that trusts an authority.
    pub fn trusting(authority: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self { http: http(authority)?, jar: BTreeMap::new(), language: "en", address: "" })
    }

    /// Its cookies.
    pub fn cookies(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.jar
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) -> anyhow::Result<Page> {
        let request = self.http.get(url);
        self.follow(request).await
    }

    /// Sends the form of a page with what was entered.
    pub async fn send(&mut self, page: &Page, entered: &[(&str, &str)]) -> anyhow::Result<Page> {
        let action = page.form().with_context(|| format!("no form in: {page:?}"))?;
        let ticket = page.ticket().with_context(|| format!("no ticket in: {page:?}"))?;
        let fields: Vec<(&str, &str)> = [("ticket", ticket.as_str())].into_iter().chain(entered.iter().copied()).collect();
        let request = self.http.post(page.url.join(&action)?).form(&fields);
        self.follow(request).await
    }

    async fn follow(&mut self, mut request: reqwest::RequestBuilder) -> anyhow::Result<Page> {
        for _ in 0..REDIRECTIONS {
            let cookies: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::ACCEPT_LANGUAGE, self.language).header(header::ACCEPT, "text/html");
            if !self.address.is_empty() {
                request = request.header("x-real-ip", self.address);
            }
            if !cookies.is_empty() {
                request = request.header(header::COOKIE, cookies.join("; "));
            }
            let response = request.send().await?;
            for field in response.headers().get_all(header::SET_COOKIE) {
                let (pair, attributes) = field.to_str()?.split_once(';').context("a cookie without attributes")?;
                ensure!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax"), "{attributes}");
                let (name, value) = pair.split_once('=').context("a cookie without a name")?;
                match attributes.contains("Max-Age=0") {
                    true => self.jar.remove(name),
                    false => self.jar.insert(name.to_owned(), value.to_owned()),
                };
            }
            let (status, url, headers) = (response.status(), response.url().clone(), response.headers().clone());
            let location = headers.get(header::LOCATION).map(|to| anyhow::Ok(url.join(to.to_str()?)?)).transpose()?;
            let html = response.text().await?;
            match location {
                Some(to) if to.origin() == url.origin() => request = self.http.get(to),
                away => return Ok(Page { status, url, html, headers, away }),
            }
        }
        anyhow::bail!("redirected for ever")
    }

    /// Signs in on a page that asks for it.
    pub async fn sign_in(&mut self, page: &Page, login: &str, password: &str) -> anyhow::Result<Page> {
        self.send(page, &[("username", login), ("password", password)]).await
    }
}

impl Page {
    fn after(&self, before: &str) -> Option<String> {
        Some(self.html.split_once(before)?.1.split('"').next()?.replace("&#38;", "&"))
    }

    fn form(&self) -> Option<String> {
        self.after("<form method=\"post\" action=\"")
    }

    /// The hidden ticket.
    pub fn ticket(&self) -> Option<String> {
        self.after("name=\"ticket\" value=\"")
    }

    /// A parameter of where it leads.
    pub fn answer(&self, name: &str) -> Option<String> {
        self.away.as_ref()?.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// The code that it leads back with.
    pub fn code(&self) -> anyhow::Result<String> {
        self.answer("code").with_context(|| format!("no code: {self:?}"))
    }
}

impl Realm {
    /// The provider of a domain in a suite.
    pub fn of(suite: &Suite, domain: &str) -> anyhow::Result<Self> {
        Self::trusting(suite, domain, None)
    }

    /// The same, behind a certificate of an authority.
    pub fn trusting(suite: &Suite, domain: &str, authority: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self { issuer: suite.url(&format!("/elph/auth/realms/{domain}")), http: http(authority)? })
    }

    /// An address of the protocol.
    pub fn at(&self, path: &str) -> String {
        format!("{}/protocol/openid-connect{path}", self.issuer)
    }

    /// The authorization request of a client; parameters can be replaced, an empty one is left out.
    pub fn request(&self, changed: &[(&str, &str)]) -> anyhow::Result<String> {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut all = vec![
            ("client_id", "app"),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", "openid profile email"),
            ("state", "s1"),
            ("nonce", "n1"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in changed {
            all.retain(|(known, _)| known != name);
            all.push((name, value));
        }
        all.retain(|(_, value)| !value.is_empty());
        Ok(Url::parse_with_params(&self.at("/auth"), all)?.into())
    }

    /// Sends a form to the protocol: status code and JSON.
    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
        crate::suite::answer(self.http.post(self.at(path)).form(fields).send().await?).await
    }

    /// Sends a form with a client's secret.
    pub async fn form_as(&self, client: (&str, &str), path: &str, fields: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
        let request = self.http.post(self.at(path)).basic_auth(client.0, Some(client.1)).form(fields);
        crate::suite::answer(request.send().await?).await
    }

    /// Exchanges a code of the client `app`.
    pub async fn exchange(&self, code: &str) -> anyhow::Result<(u16, Value)> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", BACK),
            ("client_id", "app"),
            ("code_verifier", VERIFIER),
        ];
        self.form("/token", &fields).await
    }

    /// Uses a refresh token of the client `app`.
    pub async fn refresh(&self, token: &str) -> anyhow::Result<(u16, Value)> {
        self.form("/token", &[("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "app")]).await
    }

    /// Reads with an access token: status code and JSON.
    pub async fn get(&self, url: &str, token: &str) -> anyhow::Result<(u16, Value)> {
        crate::suite::answer(self.http.get(url).bearer_auth(token).send().await?).await
    }

    /// A person signs in to the client `app` in this browser: the token endpoint's answer.
    pub async fn tokens(&self, browser: &mut Browser, login: &str, password: &str) -> anyhow::Result<Value> {
        let page = browser.open(&self.request(&[])?).await?;
        let page = browser.sign_in(&page, login, password).await?;
        let (status, tokens) = self.exchange(&page.code()?).await?;
        ensure!(status == 200, "{status} {tokens}");
        Ok(tokens)
    }
}

/// A client that trusts this authority alone, if one is given.
pub(crate) fn http(authority: Option<&str>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    if let Some(authority) = authority {
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(authority.as_bytes())?]);
    }
    Ok(builder.build()?)
}

/// A text of an answer.
pub fn text<'a>(answer: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    answer.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {answer}"))
}

/// The claims of a token, without looking at its signature.
pub fn claims(token: &str) -> anyhow::Result<Value> {
    let body = token.split('.').nth(1).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?)
}
