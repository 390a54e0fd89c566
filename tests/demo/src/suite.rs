//! The suite on stage: the real elph-server with every service on one TLS port, with a certificate of the demo's own making.

use std::{net::Ipv4Addr, path::Path};

use anyhow::Context;
use e2e::{
    guard::{Authority, Signed},
    sso::{BACK, Browser, Realm},
    suite,
};

use crate::stage::DOMAIN;

/// Ports may be taken between looking and listening.
const ATTEMPTS: u32 = 5;

/// A running suite.
pub(crate) struct Suite {
    server: suite::Suite,
    authority: String,
}

impl Suite {
    /// Starts it beside the agent; its files are in the stage's directory.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let Signed { certificate, key } = authority.sign(&Ipv4Addr::LOCALHOST.to_string())?;
        std::fs::write(directory.join("cert.pem"), certificate)?;
        std::fs::write(directory.join("key.pem"), key)?;
        std::fs::write(directory.join("authority.pem"), &authority.pem)?;
        let mut attempt = 1;
        loop {
            let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let config = config(directory, port);
            match suite::Suite::beside(&directory.join("grpc.sock"), &[DOMAIN], &config, Some(&authority.pem)).await {
                Ok(server) => return Ok(Self { server, authority: authority.pem }),
                Err(error) if attempt == ATTEMPTS => return Err(error.context("start elph-server")),
                Err(_) => attempt += 1,
            }
        }
    }

    /// The server.
    pub(crate) fn server(&self) -> &suite::Suite {
        &self.server
    }

    /// The provider of the domain, and a browser that trusts its certificate.
    pub(crate) fn sso(&self) -> anyhow::Result<(Realm, Browser)> {
        let authority = Some(self.authority.as_str());
        Ok((Realm::trusting(&self.server, DOMAIN, authority)?, Browser::trusting(authority)?))
    }

    /// Where people sign in and see where they are signed in.
    pub(crate) fn account(&self) -> String {
        self.server.url(&format!("/elph/auth/realms/{DOMAIN}/account"))
    }

    /// How it has ended though nobody asked it to.
    pub(crate) fn fallen(&mut self) -> Option<String> {
        self.server.ended().map(|status| format!("elph-server ended with {status}; its log:\n{}", self.server.log()))
    }

    /// Ends it in good order.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.server.end(nix::sys::signal::Signal::SIGTERM).await.context("end elph-server")
    }
}

fn config(directory: &Path, port: u16) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    let secret: u128 = rand::random();
    format!(
        "[database]\nurl = \"sqlite:{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n\
         [sso]\npublic_url = \"https://127.0.0.1:{port}\"\nsecret = \"{secret:032x}\"\nlanguage = \"en\"\n\
         [[sso.clients]]\nclient_id = \"app\"\nclient_name = \"Elph\"\nredirect_uris = [\"{BACK}\", \"http://127.0.0.1/\"]\n",
        path("suite.db"),
        path("cert.pem"),
        path("key.pem"),
    )
}
