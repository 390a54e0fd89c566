//! A changing command: its request id, and how to look at its outcome and repeat it safely.

use uuid::Uuid;

/// One changing command.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    request_id: String,
    given: Vec<String>,
    prefix: Vec<String>,
    look: Vec<String>,
}

impl Change {
    /// A change that was `given` on the command line (without the program's name) with the connection options `prefix`.
    pub(crate) fn new(request_id: Option<String>, given: &[String], prefix: &[String]) -> Self {
        let mut given = given.to_vec();
        let request_id = request_id.unwrap_or_else(|| {
            let id = Uuid::new_v4().to_string();
            given.extend(["--request-id".to_owned(), id.clone()]);
            id
        });
        Self { request_id, given, prefix: prefix.to_vec(), look: Vec::new() }
    }

    /// The request id.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// An abbreviation was resolved: the repetition names the whole, which means the same later on too.
    pub(crate) fn resolved(&mut self, from: &str, to: &str) {
        let option = format!("={from}");
        for argument in &mut self.given {
            if argument == from {
                to.clone_into(argument);
                return;
            }
            let Some(name) = argument.strip_suffix(&option).filter(|name| name.starts_with("--") && !name.contains('=')) else { continue };
            *argument = format!("{name}={to}");
            return;
        }
    }

    /// A choice was made: the repetition makes the same.
    pub(crate) fn chosen(&mut self, option: &str, value: &str) {
        self.given.extend([option.to_owned(), value.to_owned()]);
    }

    /// An option that the repetition has with this value, whether it was given with another or not at all.
    pub(crate) fn set(&mut self, option: &str, value: &str) {
        let with_value = format!("{option}=");
        if let Some(place) = self.given.iter().position(|argument| argument == option) {
            self.given.drain(place..(place + 2).min(self.given.len()));
        }
        self.given.retain(|argument| !argument.starts_with(&with_value));
        self.chosen(option, value);
    }

    /// The command that shows the outcome.
    pub(crate) fn look_with(&mut self, arguments: &[&str]) {
        self.look = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// The line to look with.
    pub(crate) fn look_line(&self) -> String {
        line(self.prefix.iter().chain(&self.look))
    }

    /// The line to repeat with.
    pub(crate) fn repeat_line(&self) -> String {
        line(self.given.iter())
    }
}

fn line<'a>(arguments: impl Iterator<Item = &'a String>) -> String {
    let mut line = "elphctl".to_owned();
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

/// The argument as a POSIX shell reads it.
fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@%+".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repetition_means_the_same_later_on() {
        let given = ["conf", "remove", "5f0c", "1042"].map(String::from);
        let mut change = Change::new(None, &given, &["--socket".to_owned(), "/tmp/a b".to_owned()]);
        change.resolved("5f0c", "5f0c2f0e-0000-4000-8000-000000000001");
        change.resolved("1042", "p*7");
        change.look_with(&["conf", "get", "5f0c2f0e-0000-4000-8000-000000000001"]);
        let id = change.request_id().to_owned();
        assert_eq!(change.repeat_line(), format!("elphctl conf remove 5f0c2f0e-0000-4000-8000-000000000001 'p*7' --request-id {id}"));
        assert_eq!(change.look_line(), "elphctl --socket '/tmp/a b' conf get 5f0c2f0e-0000-4000-8000-000000000001");
    }

    #[test]
    fn a_secret_is_not_repeated_and_a_place_is_given_anew() {
        let given = ["push", "register", "1042", "--token=abc", "--after-line", "7", "--after-line=8"].map(String::from);
        let mut change = Change::new(Some("mine".into()), &given, &[]);
        change.resolved("abc", "-");
        change.set("--after-line", "9");
        assert_eq!(change.repeat_line(), "elphctl push register 1042 --token=- --after-line 9");
    }

    #[test]
    fn a_given_request_id_is_kept_and_not_said_twice() {
        let given = ["calls", "release", "x", "--request-id", "mine"].map(String::from);
        let change = Change::new(Some("mine".into()), &given, &[]);
        assert_eq!((change.request_id(), change.repeat_line().as_str()), ("mine", "elphctl calls release x --request-id mine"));
    }
}
