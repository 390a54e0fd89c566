//! Idle WebSockets through a door.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{NAME, doors::Door};

/// Opened side by side.
const AT_ONCE: usize = 32;
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
const ASKED: &str = "GET /elph_chat/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A service that takes every WebSocket and says nothing.
pub(super) async fn idle_service() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if head.len() > 8192 || stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let upgrade = String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket");
                let answer = if upgrade { SWITCHED } else { b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" };
                let _ = stream.write_all(answer).await;
                if upgrade {
                    let _ = stream.read_u8().await;
                }
            });
        }
    });
    Ok(address)
}

/// KiB of the door for each of so many.
pub(super) async fn cost(door: &Door, count: usize) -> anyhow::Result<f64> {
    let connector = TlsConnector::from(Arc::new(trusting()?));
    // What is made for the first is not for each.
    let first = open(&connector, door.address).await?;
    let before = door.resident()?;
    let opened = futures_util::stream::iter(0..count).map(|_| open(&connector, door.address));
    let sockets: Vec<TlsStream<TcpStream>> = opened.buffer_unordered(AT_ONCE).try_collect().await?;
    let after = door.resident()?;
    ensure!(sockets.len() == count);
    drop((first, sockets));
    #[expect(clippy::cast_precision_loss, reason = "a count of sockets")]
    Ok((after - before) / count as f64)
}

async fn open(connector: &TlsConnector, address: SocketAddr) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from(NAME)?, stream).await?;
    stream.write_all(ASKED.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0 && answer.len() < 8192, "no WebSocket: {}", String::from_utf8_lossy(&answer));
    }
    answer.starts_with(b"HTTP/1.1 101").then_some(stream).with_context(|| String::from_utf8_lossy(&answer).into_owned())
}

fn trusting() -> anyhow::Result<rustls::ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Trusting(provider))).with_no_client_auth())
}

/// Takes any certificate: who is there is not what is measured.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
