//! What the commands about pushes take from files and standard input, read before anything is sent: tokens, subscriptions, payloads.

use std::path::Path;

use elph_proto::v1::{PushContent, PushParameters, WebPushKeys};
use serde::Deserialize;

use crate::{
    cli::push::{ContentArgs, Credentials, ProviderArg, PushCommand},
    failure::Failure,
    run::piped,
    settings::read_small,
};

/// What was read.
#[derive(Default)]
pub(crate) struct Input {
    /// Of `register` and `unregister`.
    pub(crate) whose: Whose,
    /// Of `send` and `send-many`.
    pub(crate) content: PushContent,
}

/// Provider, token and keys. The provider is empty where only the application says it.
#[derive(Default)]
pub(crate) struct Whose {
    /// As RFC 8599 has them.
    pub(crate) parameters: PushParameters,
    /// A browser's.
    pub(crate) keys: Option<WebPushKeys>,
    /// What of the command line must not be repeated.
    pub(crate) secret: Option<String>,
}

/// Reads what a command needs.
pub(crate) fn input(command: &PushCommand) -> Result<Input, Failure> {
    let mut input = Input::default();
    match command {
        PushCommand::Register(register) => input.whose = whose(&register.credentials)?,
        PushCommand::Unregister(unregister) if unregister.device.is_none() => input.whose = whose(&unregister.credentials)?,
        PushCommand::Send(send) => input.content = content(&send.content)?,
        PushCommand::SendMany(many) => input.content = content(&many.content)?,
        _ => {}
    }
    Ok(input)
}

fn whose(credentials: &Credentials) -> Result<Whose, Failure> {
    if let Some(path) = &credentials.subscription {
        return subscription(path);
    }
    let given = credentials.token.as_ref().or(credentials.pn.as_ref());
    let secret = given.filter(|given| *given != "-").cloned();
    if let Some(given) = &credentials.pn {
        let text = if given == "-" { piped("parameters")? } else { given.clone() };
        let parameters = contact(&text).map_err(|what| Failure::Usage(format!("--pn: {what}")))?;
        return Ok(Whose { parameters, keys: None, secret });
    }
    let token = match credentials.token.as_deref() {
        Some("-") => piped("token")?,
        token => token.unwrap_or_default().to_owned(),
    };
    let provider = match credentials.provider {
        Some(ProviderArg::Apns) => "apns",
        Some(ProviderArg::Fcm) => "fcm",
        None if credentials.app.is_none() => return Err(Failure::Usage("--token needs --app or --provider: whose token is it?".into())),
        None => "",
    };
    let parameters = PushParameters { pn_provider: provider.to_owned(), pn_prid: token, pn_param: String::new() };
    Ok(Whose { parameters, keys: None, secret })
}

/// Reads `pn-provider=…;pn-prid=…;pn-param=…` (the ECSS writes `pn-params`), alone or inside a whole Contact: separated by `;`,
/// percent-encoded, in any order. What it means is the agent's to say.
fn contact(text: &str) -> Result<PushParameters, String> {
    let mut found = PushParameters::default();
    for parameter in text.split([';', '<', '>']) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "pn-provider" => &mut found.pn_provider,
            "pn-prid" => &mut found.pn_prid,
            "pn-param" | "pn-params" => &mut found.pn_param,
            _ => continue,
        };
        *place = decoded(value.trim().trim_matches('"'));
    }
    for (name, value) in [("pn-provider", &found.pn_provider), ("pn-prid", &found.pn_prid)] {
        if value.is_empty() {
            return Err(format!("{name} is missing"));
        }
    }
    Ok(found)
}

/// Percent-decoding; what is no such sequence stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `PushSubscription.toJSON()` of the Push API.
#[derive(Deserialize)]
struct Subscription {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

fn subscription(path: &Path) -> Result<Whose, Failure> {
    let text = if path == Path::new("-") { piped("subscription")? } else { text_of("--subscription", path)? };
    // The error's own words could quote a key.
    let subscription: Subscription = serde_json::from_str(&text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Failure::Usage(format!(
            "--subscription {}: must be a JSON object with endpoint, keys.p256dh and keys.auth ({place})",
            path.display()
        ))
    })?;
    let parameters = PushParameters { pn_provider: "webpush".into(), pn_prid: subscription.endpoint, pn_param: String::new() };
    let keys = WebPushKeys { p256dh: subscription.keys.p256dh, auth: subscription.keys.auth };
    Ok(Whose { parameters, keys: Some(keys), secret: None })
}

fn text_of(option: &str, path: &Path) -> Result<String, Failure> {
    let content = read_small(path).map_err(|error| Failure::Usage(format!("{option}: {error}")))?;
    String::from_utf8(content).map_err(|_| Failure::Usage(format!("{option}: {} is not UTF-8", path.display())))
}

fn content(arguments: &ContentArgs) -> Result<PushContent, Failure> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let file = |option: &str, path: &Option<std::path::PathBuf>| path.as_deref().map_or(Ok(String::new()), |path| text_of(option, path));
    let mut content = PushContent {
        title: text(&arguments.title),
        body: text(&arguments.body),
        sound: text(&arguments.sound),
        badge: arguments.badge,
        thread: text(&arguments.thread),
        category: text(&arguments.category),
        mutable_content: arguments.mutable,
        apns_payload: file("--apns-payload", &arguments.apns_payload)?,
        fcm_message: file("--fcm-message", &arguments.fcm_message)?,
        webpush_body: file("--webpush-body", &arguments.webpush_body)?,
        ..Default::default()
    };
    for (key, value) in &arguments.data {
        if content.data.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::Usage(format!("--data: {key} is given twice")));
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_is_read_as_the_rfc_and_the_switch_write_it() {
        let found = contact("pn-provider=apns;pn-prid=00fc13adff78512;pn-param=DEF123GHIJ.org.example.app").unwrap();
        assert_eq!((found.pn_provider.as_str(), found.pn_prid.as_str()), ("apns", "00fc13adff78512"));
        let whole = "\"Anna\" <sip:1042@10.0.0.7:5060;PN-Provider=fcm;pn-params=elph;pn-prid=dX%3Aa%2b%zz>;expires=60";
        let found = contact(whole).unwrap();
        assert_eq!((found.pn_provider.as_str(), found.pn_prid.as_str(), found.pn_param.as_str()), ("fcm", "dX:a+%zz", "elph"));
        assert_eq!(contact("pn-provider=fcm").unwrap_err(), "pn-prid is missing");
        assert_eq!(contact("").unwrap_err(), "pn-provider is missing");
    }
}
