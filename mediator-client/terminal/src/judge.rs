//! What an answer of the terminal means. Statuses are not uniform, so the body decides (ecss10-interfaces §1); what is not
//! documented about expired sessions comes from the dialect.

use ecss_switch::{
    Dialect,
    error::{CommandError, RefusalReason},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    session::{Answer, Command, Content, Errors, Reply},
    xml::Element,
};

/// Longest text of the switch that is kept.
const TEXT: usize = 256;

/// What an answer to a command means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The session was gone: the command was not executed.
    Expired,
    /// It still runs.
    Progress,
    /// The switch asks before it does it.
    Question(String),
    /// It has ended.
    Done(Result<Reply, CommandError>),
}

/// Whether the answer says that the session is gone.
pub(crate) fn expired(dialect: &Dialect, answer: &Answer) -> bool {
    let says = &dialect.terminal.session_expired;
    if says.statuses.contains(&answer.status) {
        return true;
    }
    let Some(document) = out(answer) else {
        return says.without_document && (400..500).contains(&answer.status);
    };
    let text = error_text(document).unwrap_or_default().to_lowercase();
    says.words.iter().any(|word| !word.is_empty() && text.contains(&word.to_lowercase()))
}

/// What the answer to a command means.
pub(crate) fn command(dialect: &Dialect, command: &Command, answer: Answer) -> Verdict {
    if expired(dialect, &answer) {
        return Verdict::Expired;
    }
    match answer.status {
        206 => return Verdict::Progress,
        300 => {
            let question = out(&answer).and_then(all_text).unwrap_or_else(|| "no text".to_owned());
            return Verdict::Question(scrub(&question, &command.secrets));
        }
        _ => {}
    }
    let bad = |cause: String| Verdict::Done(Err(CommandError::BadAnswer { cause }));
    let refused = |reason: RefusalReason, text: String| {
        let text = scrub(&text, &command.secrets);
        Verdict::Done(Err(CommandError::Refused { reason, text }))
    };
    let document = match answer.content {
        Content::Document(document) if document.local_name() == "out" => document,
        Content::Document(document) => return bad(format!("the root is '{}' instead of 'out'", shorten(document.local_name()))),
        Content::Unreadable(cause) => return bad(format!("status {}: {cause}", answer.status)),
        Content::Empty => Element::new("out"),
    };
    let error = error_text(&document);
    match (command.errors, error) {
        (Errors::Refuse, Some(text)) if text.is_empty() => return refused(RefusalReason::Other, format!("status {}", answer.status)),
        (Errors::Refuse, Some(text)) => return refused(reason(dialect, &document, &text), text),
        (Errors::Keep, Some(_)) => return Verdict::Done(Ok(Reply { status: answer.status, document })),
        (_, None) => {}
    }
    // The body names no error; what is left is the status.
    if answer.status >= 500 {
        return bad(format!("status {} without an error", answer.status));
    }
    let says_otherwise = command.success_status.is_some_and(|status| status != answer.status) && document.children.is_empty();
    if answer.status >= 400 || says_otherwise {
        return refused(RefusalReason::Other, format!("status {}", answer.status));
    }
    Verdict::Done(Ok(Reply { status: answer.status, document }))
}

fn out(answer: &Answer) -> Option<&Element> {
    match &answer.content {
        Content::Document(document) if document.local_name() == "out" => Some(document),
        _ => None,
    }
}

/// What a refusal means: by its cause where that says enough, otherwise by all its words.
pub(crate) fn reason(dialect: &Dialect, document: &Element, text: &str) -> RefusalReason {
    let causes =
        document.all("error").filter_map(|error| error.get_some(&dialect.terminal.error_cause)).map(|cause| dialect.refusal(cause));
    causes.into_iter().find(|reason| *reason != RefusalReason::Other).unwrap_or_else(|| dialect.refusal(text))
}

/// The words of the `<error>` elements below the root or below its children; `None` when there is no such element.
pub(crate) fn error_text(document: &Element) -> Option<String> {
    let below = document.children.iter().flat_map(|child| std::iter::once(child).chain(&child.children));
    let mut errors = below.filter(|element| element.local_name() == "error").peekable();
    errors.peek()?;
    let texts: Vec<String> = errors.take(8).filter_map(all_text).collect();
    Some(shorten(&texts.join("; ")))
}

/// Attribute values and texts of an element and everything inside it.
fn all_text(element: &Element) -> Option<String> {
    let words = element.walk().take(64).flat_map(|element| {
        let attributes =
            element.attributes.iter().filter(|(name, _)| !name.starts_with("xmlns") && !name.ends_with("noNamespaceSchemaLocation"));
        attributes.map(|(_, value)| value.as_str()).chain([element.text.trim()])
    });
    let text = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    Some(shorten(&text)).filter(|text| !text.is_empty())
}

/// At most `TEXT` characters.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The text without the secrets, should the switch have quoted them.
pub(crate) fn scrub(text: &str, secrets: &[SecretString]) -> String {
    let secrets = secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn answer(status: u16, body: &str) -> Answer {
        let content = match body {
            "" => Content::Empty,
            body => parse(body.as_bytes()).map_or_else(|error| Content::Unreadable(error.to_string()), Content::Document),
        };
        Answer { status, request_ids: Vec::new(), set_cookies: Vec::new(), content }
    }

    fn verdict(dialect: &str, status: u16, body: &str) -> Verdict {
        let change = Command { success_status: Some(201), ..Command::change("role_add_group", Element::new("request")) };
        command(&Dialect::built_in(dialect).unwrap(), &change, answer(status, body))
    }

    #[test]
    fn the_body_decides_and_not_the_status() {
        let refused = |verdict: Verdict, wanted: RefusalReason| match verdict {
            Verdict::Done(Err(CommandError::Refused { reason, .. })) => assert_eq!(reason, wanted),
            other => panic!("{other:?}"),
        };
        refused(verdict("sim", 200, r#"<out><error cause="domain_limit"/></out>"#), RefusalReason::LimitReached);
        refused(verdict("sim", 201, r#"<out><response><error>busy</error></response></out>"#), RefusalReason::Busy);
        refused(verdict("sim", 404, "<out><error cause='busy' description='conference_locked'/></out>"), RefusalReason::Busy);
        refused(verdict("sim", 404, ""), RefusalReason::Other);
        refused(verdict("sim", 200, "<out/>"), RefusalReason::Other); // 200 is this command's error
        assert!(matches!(verdict("sim", 201, "<out/>"), Verdict::Done(Ok(_))));
        assert!(matches!(verdict("sim", 200, "<out><role name='r'/></out>"), Verdict::Done(Ok(_))));
        assert!(matches!(verdict("sim", 200, "<out>"), Verdict::Done(Err(CommandError::BadAnswer { .. }))));
        assert!(matches!(verdict("sim", 200, "<html/>"), Verdict::Done(Err(CommandError::BadAnswer { .. }))));
        assert!(matches!(verdict("sim", 503, ""), Verdict::Done(Err(CommandError::BadAnswer { .. }))));
        assert_eq!(verdict("sim", 206, ""), Verdict::Progress);
        assert_eq!(verdict("sim", 300, "<out><question text='delete?'/></out>"), Verdict::Question("delete?".into()));
    }

    #[test]
    fn an_expired_session_is_told_by_the_dialect() {
        assert_eq!(verdict("sim", 401, ""), Verdict::Expired);
        assert_eq!(verdict("sim", 200, "<out><error description='SESSION_EXPIRED'/></out>"), Verdict::Expired);
        assert_ne!(verdict("sim", 404, "not found"), Verdict::Expired);
        assert_eq!(verdict("documented", 404, "not found"), Verdict::Expired);
        assert_ne!(verdict("documented", 404, "<out><error/></out>"), Verdict::Expired);
    }

    #[test]
    fn quoted_secrets_are_scrubbed_and_texts_are_bounded() {
        let mut change = Command::change("cocon_add_user", Element::new("user"));
        change.secrets = vec![SecretString::from("geheim".to_owned())];
        let body = format!("<out><error text='password geheim is weak {}'/></out>", "x".repeat(1000));
        let Verdict::Done(Err(error)) = command(&Dialect::built_in("sim").unwrap(), &change, answer(404, &body)) else { panic!() };
        let text = error.to_string();
        assert!(text.contains("password *** is weak") && text.len() < 400, "{text}");
    }
}
