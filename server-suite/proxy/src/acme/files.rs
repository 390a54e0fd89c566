//! What is kept in `acme.state`: the account, and the certificate with its key in one file. Each is replaced as a whole, and only by what
//! has been found good.

use std::{
    io::Write as _,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use elph_shell::config::read_bounded;
use instant_acme::AccountCredentials;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::AcmeError;
use crate::config::Acme;

/// What is issued: both in PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// The account at one authority.
#[derive(Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) directory: String,
    pub(crate) external_account_id: String,
    pub(crate) credentials: AccountCredentials,
}

/// Most bytes of each file.
const LONGEST: u64 = 1 << 20;
/// What is said in a certificate that no authority has issued.
const PLACEHOLDER: &str = "elph-proxy, no certificate yet";

/// Makes a certificate to start with where there is none: nginx does not start without.
pub(crate) fn make_placeholder(acme: &Acme, names: &[String]) -> Result<(), AcmeError> {
    if acme.certificate().exists() {
        return Ok(());
    }
    let mut parameters = rcgen::CertificateParams::new(names.to_vec())?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, PLACEHOLDER);
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    replace(&acme.certificate(), &format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// The account that was kept, if it is one at this authority.
pub(crate) fn account(acme: &Acme) -> Result<Option<AccountCredentials>, AcmeError> {
    let path = acme.state.join("account.json");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, LONGEST).map_err(AcmeError::File)?;
    let kept: Account = serde_json::from_slice(&bytes).map_err(|error| {
        AcmeError::File(format!("{} is no account of ours (line {}); remove it to begin a new one", path.display(), error.line()))
    })?;
    let same = kept.directory == acme.directory && kept.external_account_id == acme.external_account_id;
    Ok(same.then_some(kept.credentials))
}

/// Forgets an account that the authority does not know any more.
pub(crate) fn forget_account(acme: &Acme) {
    let path = acme.state.join("account.json");
    if let Err(error) = std::fs::rename(&path, path.with_extension("unknown")) {
        tracing::warn!(%error, path = %path.display(), "the account cannot be put aside");
    }
}

/// Keeps an account.
pub(crate) fn keep_account(acme: &Acme, credentials: AccountCredentials) -> Result<(), AcmeError> {
    let kept = Account { directory: acme.directory.clone(), external_account_id: acme.external_account_id.clone(), credentials };
    let text = serde_json::to_string(&kept).map_err(|error| AcmeError::File(format!("the account cannot be written: {error}")))?;
    replace(&acme.state.join("account.json"), &text)
}

/// Takes a new certificate into use, if it is one for these names, with this key, and valid now.
pub(crate) fn keep_certificate(acme: &Acme, names: &[String], issued: &Issued) -> Result<(), AcmeError> {
    let unusable = |what: &str| AcmeError::Unusable(what.to_owned());
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
    let chain = read.map_err(|_| unusable("it is no PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(|_| unusable("its key is no PEM"))?;
    let first = chain.first().ok_or_else(|| unusable("it is empty"))?;
    if !holds(first, names) {
        return Err(unusable("it is for other names"));
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|_| unusable("it cannot be parsed"))?;
    if parsed.validity().not_after.timestamp() <= jiff::Timestamp::now().as_second() {
        return Err(unusable("it has expired"));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signer = provider.key_provider.load_private_key(key).map_err(|_| unusable("its key cannot be used"))?;
    rustls::sign::CertifiedKey::new(chain.clone(), signer).keys_match().map_err(|_| unusable("its key is another"))?;
    replace(&acme.certificate(), &format!("{}{}{}", issued.chain.trim_end(), "\n", issued.key))
}

/// How long the certificate in use can stay.
pub(crate) fn time_left(acme: &Acme, names: &[String], early: f64) -> Duration {
    let Ok(chain) = elph_shell::tls::certificates(&acme.certificate()) else { return Duration::ZERO };
    let Some(first) = chain.first() else { return Duration::ZERO };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(first) else { return Duration::ZERO };
    let made_here = parsed.issuer().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == PLACEHOLDER));
    if made_here || !holds(first, names) {
        return Duration::ZERO;
    }
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let seconds = |from: i64, to: i64| Duration::from_secs(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
    let ahead = acme.renew_before.0.min(seconds(begin, end) / 3).mul_f64(1.0 + early);
    seconds(jiff::Timestamp::now().as_second(), end).saturating_sub(ahead)
}

/// Whether a certificate is for all of these names.
fn holds(certificate: &CertificateDer<'_>, names: &[String]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return false };
    let there = |name: &String| {
        alternatives
            .value
            .general_names
            .iter()
            .any(|held| matches!(held, x509_parser::extensions::GeneralName::DNSName(held) if held.eq_ignore_ascii_case(name)))
    };
    names.iter().all(there)
}

/// Replaces a file as a whole; only its owner can read it.
fn replace(path: &Path, text: &str) -> Result<(), AcmeError> {
    let failed = |error: std::io::Error| AcmeError::File(format!("{} cannot be written: {error}", path.display()));
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme(directory: &Path) -> (Acme, Vec<String>) {
        (Acme { state: directory.to_owned(), ..Acme::default() }, vec!["a.example.org".to_owned()])
    }

    fn made(name: &str, from: i64, to: i64) -> Issued {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let at = |offset: i64| {
            let seconds = u64::try_from(jiff::Timestamp::now().as_second() + offset).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        (parameters.not_before, parameters.not_after) = (at(from), at(to));
        let key = rcgen::KeyPair::generate().unwrap();
        Issued { chain: parameters.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    #[test]
    fn only_a_certificate_that_can_be_used_replaces_the_present_one() {
        let directory = tempfile::tempdir().unwrap();
        let (acme, names) = acme(directory.path());
        make_placeholder(&acme, &names).unwrap();
        assert_eq!(time_left(&acme, &names, 0.0), Duration::ZERO, "the one to start with is to be replaced at once");
        let good = made("a.example.org", -1000, 9000);
        keep_certificate(&acme, &names, &good).unwrap();
        let present = std::fs::read(acme.certificate()).unwrap();
        let other_key = Issued { key: made("a.example.org", 0, 9000).key, chain: good.chain.clone() };
        for (what, bad) in [
            ("another key", other_key),
            ("another name", made("b.example.org", -1000, 9000)),
            ("expired", made("a.example.org", -1000, -1)),
            ("nonsense", Issued { chain: "x".to_owned(), key: good.key.clone() }),
        ] {
            assert!(keep_certificate(&acme, &names, &bad).is_err(), "{what}");
            assert_eq!(std::fs::read(acme.certificate()).unwrap(), present, "{what}");
        }
        // A third of 10,000 s before its end, and by chance a tenth of that earlier.
        let left = time_left(&acme, &names, 0.0).as_secs();
        assert!((5600..=5700).contains(&left), "{left}");
        assert!(time_left(&acme, &names, 0.1).as_secs() < left - 300);
        assert_eq!(time_left(&acme, &["c.example.org".to_owned()], 0.0), Duration::ZERO, "other names, other certificate");
    }
}
