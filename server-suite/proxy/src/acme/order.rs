//! One order: the account, the names, the proofs, the certificate.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::{
    AcmeError, Keeper,
    answer::Answers,
    files::{self, Issued},
    hook::Records,
    http::Client,
};
use crate::config::{Acme, Challenge};

/// How the authority is asked whether it has looked.
const POLLS: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_secs(300));

/// The account, a new one if there is none yet.
pub(super) async fn account(acme: &Acme) -> Result<Account, AcmeError> {
    let builder = Account::builder_with_http(Box::new(Client::new(acme)?));
    if let Some(kept) = files::account(acme)? {
        return builder.from_credentials(kept).await.map_err(at("the account cannot be used"));
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: acme.accept_terms, only_return_existing: false };
    let external = external(acme)?;
    let made = builder.create(&wanted, acme.directory.clone(), external.as_ref()).await;
    let (account, credentials) = made.map_err(at("the authority gives no account"))?;
    files::keep_account(acme, credentials)?;
    tracing::info!(account = account.id(), "the authority has given an account");
    Ok(account)
}

fn external(acme: &Acme) -> Result<Option<ExternalAccountKey>, AcmeError> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let Some(path) = &acme.external_account_key_file else { return Ok(None) };
    let bytes = elph_shell::config::read_bounded(path, 4096).map_err(AcmeError::File)?;
    let text = String::from_utf8_lossy(&bytes);
    let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    let key = key.map_err(|_| AcmeError::File(format!("{} holds no key in base64url", path.display())))?;
    Ok(Some(ExternalAccountKey::new(acme.external_account_id.clone(), &key)))
}

/// A certificate for all names, with a fresh key.
pub(super) async fn certificate(keeper: &Keeper, account: &Account) -> Result<Issued, AcmeError> {
    let identifiers: Vec<Identifier> = keeper.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(at("the authority takes no order"))?;
    match keeper.acme.challenge {
        Challenge::Dns => {
            let mut records = Records::new(&keeper.acme);
            let proved = prove_by_dns(&mut order, &mut records).await;
            records.remove().await;
            proved?;
        }
        Challenge::TlsAlpn => {
            let answers = Answers::listen(&keeper.socket)?;
            let proved = prove_by_tls(&mut order, keeper, &answers).await;
            let ended = keeper.lead(false).await;
            drop(answers);
            proved?;
            ended?;
        }
    }
    let parameters = rcgen::CertificateParams::new(keeper.names.clone())?;
    let key = rcgen::KeyPair::generate()?;
    let request = parameters.serialize_request(&key)?;
    order.finalize_csr(request.der()).await.map_err(at("the authority does not take the certificate request"))?;
    let chain = order.poll_certificate(&POLLS).await.map_err(at("the authority gives no certificate"))?;
    Ok(Issued { chain, key: key.serialize_pem() })
}

async fn prove_by_dns(order: &mut Order, records: &mut Records<'_>) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(at(AUTHORIZATIONS))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = plain(authorization.identifier().identifier);
        let challenge = authorization.challenge(ChallengeType::Dns01).ok_or_else(|| AcmeError::NoSuchChallenge(name.clone()))?;
        records.publish(&name, challenge.key_authorization().dns_value()).await?;
    }
    records.settle().await;
    proved(order, ChallengeType::Dns01).await
}

async fn prove_by_tls(order: &mut Order, keeper: &Keeper, answers: &Answers) -> Result<(), AcmeError> {
    let mut led = false;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(at(AUTHORIZATIONS))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = plain(authorization.identifier().identifier);
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01).ok_or_else(|| AcmeError::NoSuchChallenge(name.clone()))?;
        answers.show(&name, challenge.key_authorization().digest().as_ref())?;
        led = true;
    }
    if led {
        keeper.lead(true).await?;
    }
    proved(order, ChallengeType::TlsAlpn01).await
}

/// Lets the authority look, and waits for what it found.
async fn proved(order: &mut Order, kind: ChallengeType) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(at(AUTHORIZATIONS))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(kind.clone()) {
            challenge.set_ready().await.map_err(at("the authority does not look"))?;
        }
    }
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready) => Ok(()),
        found => {
            let why = complaints(order).await;
            if !why.is_empty() {
                return Err(AcmeError::NotOurs(why));
            }
            found.map_err(at("the authority does not come to an end"))?;
            Err(AcmeError::NotOurs("it does not say why".to_owned()))
        }
    }
}

/// What the authority has found wrong with each name.
async fn complaints(order: &mut Order) -> String {
    let mut why = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        for error in state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let detail: String = error.detail.as_deref().unwrap_or_default().chars().take(300).collect();
            why.push(format!("{}: {detail}", state.identifier()));
        }
    }
    why.join("; ")
}

const AUTHORIZATIONS: &str = "the authority does not say what it wants to see";

fn plain(identifier: &Identifier) -> String {
    match identifier {
        Identifier::Dns(name) => name.clone(),
        other => other.authorized(false).to_string(),
    }
}

fn at(what: &'static str) -> impl Fn(instant_acme::Error) -> AcmeError {
    move |source| AcmeError::Authority { what, source }
}
