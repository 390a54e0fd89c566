//! What tests say about callers: certificates of an authority of their own, moderators' tokens, the audit log, and a reload.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{Stack, eventually};

/// The name in the agent's certificate.
const SERVER: &str = "agent.example";

/// A certificate authority and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate with its key, both PEM.
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for a DNS name or an address.
    pub fn sign(&self, name: &str) -> anyhow::Result<Signed> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        Ok(Signed { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// The files of a mutual-TLS listener.
pub struct Files {
    /// Who signs them.
    pub authority: Authority,
    keep: tempfile::TempDir,
}

impl Files {
    /// A certificate for the agent, and the authority of its clients.
    pub fn new() -> anyhow::Result<Self> {
        let files = Self { authority: Authority::new()?, keep: tempfile::tempdir()? };
        files.renew()?;
        Ok(files)
    }

    /// Writes everything anew with another certificate of the same authority.
    pub fn renew(&self) -> anyhow::Result<()> {
        let server = self.authority.sign(SERVER)?;
        self.write("server.pem", &server.certificate)?;
        self.write("server.key", &server.key)?;
        self.write("clients.pem", &self.authority.pem)?;
        Ok(())
    }

    /// Writes a file; its path.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.keep.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.keep.path().join(name)
    }

    /// The configuration of the listener, and of the audit log as a file.
    pub fn config(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\nclient_ca_file = \"{}\"\n\
             [audit]\ntarget = \"file\"\nfile = \"{}\"\n",
            path("server.pem"),
            path("server.key"),
            path("clients.pem"),
            path("audit.jsonl"),
        )
    }

    /// The audit records so far.
    pub fn audit(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.path("audit.jsonl"))?;
        text.lines().map(|line| serde_json::from_str(line).context("a line of the audit log is no JSON")).collect()
    }

    /// The audit records once there is one that is wanted; that one.
    pub async fn audited(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        eventually(what, async || self.audit().ok()?.into_iter().find(|it| wanted(it))).await
    }
}

/// A grant for the holder of a certificate with a DNS name.
pub fn grant(name: &str, domains: &[&str], scopes: &[&str], more: &str) -> String {
    format!("[[grants]]\nname = \"{name}\"\nwho = [{{ dns = \"{name}.example\" }}]\ndomains = {domains:?}\nscopes = {scopes:?}\n{more}\n")
}

/// A grant for this process.
pub fn own_grant(scopes: &[&str]) -> String {
    let uid = nix::unistd::getuid();
    format!("[[grants]]\nname = \"tests\"\nwho = [{{ uid = {uid} }}]\ndomains = [\"*\"]\nscopes = {scopes:?}\n")
}

/// An issuer of moderators' tokens with one ES256 key.
pub struct Sso {
    key: EncodingKey,
    /// Its JWK set.
    pub keys: String,
}

impl Sso {
    /// Its `iss`.
    pub const ISSUER: &str = "https://sso.example/realms/all";

    /// A new one.
    pub fn new() -> anyhow::Result<Self> {
        let key = EncodingKey::from_ec_der(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        jwk.common.key_id = Some("k1".to_owned());
        Ok(Self { key, keys: json!({ "keys": [jwk] }).to_string() })
    }

    /// The configuration that trusts it, with its keys in a file.
    pub fn config(&self, files: &Files) -> anyhow::Result<String> {
        let path = files.write("keys.json", &self.keys)?;
        Ok(format!("[[oidc.issuers]]\nissuer = \"{}\"\naudience = \"elph-agent\"\njwks_file = \"{}\"\n", Self::ISSUER, path.display()))
    }

    /// A token: good for five minutes but for the claims that are replaced.
    pub fn token(&self, subject: &str, domain: &str, changed: &Value) -> anyhow::Result<String> {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({
            "iss": Self::ISSUER, "aud": "elph-agent", "sub": subject, "exp": now + 300, "nbf": now - 5, "domain": domain,
        });
        for (name, value) in changed.as_object().context("the changed claims are no object")? {
            claims.as_object_mut().context("no claims")?.insert(name.clone(), value.clone());
        }
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

impl Stack {
    /// Where the API is offered over mutual TLS.
    pub fn tls_address(&self) -> anyhow::Result<SocketAddr> {
        let log = self.agent.log();
        let line =
            log.lines().rfind(|line| line.contains("grpc is served over mutual tls")).context("no mutual TLS listener in the log")?;
        let value: Value = serde_json::from_str(line)?;
        let address = value.pointer("/fields/address").or_else(|| value.get("address")).and_then(Value::as_str);
        Ok(address.context("no address in the log line")?.parse()?)
    }

    /// A channel over mutual TLS, connected when first used.
    pub fn tls_channel(&self, authority: &str, client: Option<&Signed>) -> anyhow::Result<Channel> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name(SERVER);
        if let Some(client) = client {
            tls = tls.identity(Identity::from_pem(&client.certificate, &client.key));
        }
        Ok(Endpoint::from_shared(format!("https://{}", self.tls_address()?))?.tls_config(tls)?.connect_lazy())
    }

    /// Changes the configuration file, has the agent read it anew, and waits until it has.
    pub async fn reload(&self, change: impl FnOnce(&mut toml::Table) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let path = self.directory.join("agent.toml");
        let mut table: toml::Table = toml::from_str(&std::fs::read_to_string(&path)?)?;
        change(&mut table)?;
        std::fs::write(&path, toml::to_string(&table)?)?;
        let applied = "elph_agent_config_reloads_total{outcome=\"applied\"}";
        let before = self.agent.metric(applied).await?.unwrap_or(0.0);
        self.agent.signal(Signal::SIGHUP)?;
        let more = async || self.agent.metric(applied).await.ok()?.filter(|now| *now > before);
        let outcome = eventually("the configuration was read anew", more).await;
        ensure!(outcome.is_ok(), "not applied; the log:\n{}", self.agent.log());
        Ok(())
    }
}
