//! The filter that finds a person (RFC 4515), with a place for the login. The login is put into the parsed filter, never into its text:
//! whatever is in it stays one value.

use rasn_ldap::{AttributeValueAssertion, Filter as Wire, MatchingRuleAssertion, SubstringChoice, SubstringFilter};

/// Where the login goes.
const PLACE: &str = "{login}";
/// How deep a filter may be nested.
const DEEPEST: usize = 16;
/// `LDAP_MATCHING_RULE_IN_CHAIN` of Active Directory.
const IN_CHAIN: &str = "1.2.840.113556.1.4.1941";

/// A filter. Values are text: what we compare with is never binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Present(String),
    /// Attribute, how, value.
    Compare(String, Comparison, String),
    /// Attribute, and the parts between the stars; the first and the last may be empty.
    Parts(String, Vec<String>),
    /// Attribute, rule, value.
    Rule(Option<String>, Option<String>, String),
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    AtLeast,
    AtMost,
    Like,
}

/// A filter with a place for the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Filter);

// === impl Template ===

impl Template {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { rest: text.trim() };
        let filter = reader.filter(DEEPEST).filter(|_| reader.rest.is_empty());
        let Some(filter) = filter else {
            let at = text.trim_end().len() - reader.rest.len();
            return Err(format!("is no filter from character {} on; write for example (&(objectClass=person)(uid={PLACE}))", at + 1));
        };
        if !filter.asks() {
            return Err(format!("does not ask for {PLACE}: it would find the same person for everybody"));
        }
        Ok(Self(filter))
    }

    /// Finds the person of a login.
    pub(super) fn of(&self, login: &str) -> Filter {
        self.0.with(Some(login))
    }

    /// Finds whom this filter finds by any login, and who has a value in another attribute.
    pub(super) fn having(&self, attribute: &str, value: &str) -> Filter {
        Filter::And(vec![Filter::equal(attribute, value), self.0.with(None)])
    }
}

// === impl Filter ===

impl Filter {
    /// An attribute has a value.
    pub(super) fn equal(attribute: &str, value: &str) -> Self {
        Self::Compare(attribute.to_owned(), Comparison::Equal, value.to_owned())
    }

    /// Whatever there is.
    pub(super) fn anything() -> Self {
        Self::Present("objectClass".to_owned())
    }

    /// A group has a member, with groups in groups.
    pub(super) fn member_in_chain(attribute: &str, member: &str) -> Self {
        Self::Rule(Some(attribute.to_owned()), Some(IN_CHAIN.to_owned()), member.to_owned())
    }

    fn asks(&self) -> bool {
        match self {
            Self::And(inner) | Self::Or(inner) => inner.iter().any(Self::asks),
            Self::Compare(_, Comparison::Equal, value) | Self::Rule(_, _, value) => value.contains(PLACE),
            // Everybody but one, or everybody who is like one, is no person.
            Self::Not(_) | Self::Present(_) | Self::Parts(..) | Self::Compare(..) => false,
        }
    }

    /// With a login in its place; none: any login will do.
    fn with(&self, login: Option<&str>) -> Self {
        let each = |inner: &[Self]| inner.iter().map(|one| one.with(login)).collect();
        match (self, login) {
            (Self::And(inner), _) => Self::And(each(inner)),
            (Self::Or(inner), _) => Self::Or(each(inner)),
            (Self::Not(inner), _) => Self::Not(Box::new(inner.with(login))),
            (Self::Compare(attribute, comparison, value), Some(login)) => {
                Self::Compare(attribute.clone(), *comparison, value.replace(PLACE, login))
            }
            (Self::Rule(attribute, rule, value), Some(login)) => Self::Rule(attribute.clone(), rule.clone(), value.replace(PLACE, login)),
            (Self::Compare(attribute, _, value), None) if value.contains(PLACE) => Self::Present(attribute.clone()),
            (Self::Rule(attribute, _, value), None) if value.contains(PLACE) => {
                attribute.clone().map_or_else(Self::anything, Self::Present)
            }
            (other, _) => other.clone(),
        }
    }

    /// As it is sent.
    pub(super) fn wire(self) -> Wire {
        match self {
            Self::And(inner) => Wire::And(inner.into_iter().map(Self::wire).collect::<Vec<_>>().into()),
            Self::Or(inner) => Wire::Or(inner.into_iter().map(Self::wire).collect::<Vec<_>>().into()),
            Self::Not(inner) => Wire::Not(Box::new(inner.wire())),
            Self::Present(attribute) => Wire::Present(attribute.into()),
            Self::Compare(attribute, comparison, value) => {
                let pair = AttributeValueAssertion::new(attribute.into(), value.into_bytes().into());
                match comparison {
                    Comparison::Equal => Wire::EqualityMatch(pair),
                    Comparison::AtLeast => Wire::GreaterOrEqual(pair),
                    Comparison::AtMost => Wire::LessOrEqual(pair),
                    Comparison::Like => Wire::ApproxMatch(pair),
                }
            }
            Self::Parts(attribute, parts) => {
                let last = parts.len().saturating_sub(1);
                let parts = parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()).map(|(at, part)| match at {
                    0 => SubstringChoice::Initial(part.into_bytes().into()),
                    at if at == last => SubstringChoice::Final(part.into_bytes().into()),
                    _ => SubstringChoice::Any(part.into_bytes().into()),
                });
                Wire::Substrings(SubstringFilter::new(attribute.into(), parts.collect()))
            }
            Self::Rule(attribute, rule, value) => Wire::ExtensibleMatch(MatchingRuleAssertion::new(
                rule.map(Into::into),
                attribute.map(Into::into),
                value.into_bytes().into(),
                false,
            )),
        }
    }
}

/// Reads the text of a filter.
struct Reader<'a> {
    rest: &'a str,
}

// === impl Reader ===

impl Reader<'_> {
    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn filter(&mut self, deeper: usize) -> Option<Filter> {
        let deeper = deeper.checked_sub(1)?;
        if !self.takes("(") {
            return None;
        }
        let filter = if self.takes("&") {
            Filter::And(self.several(deeper)?)
        } else if self.takes("|") {
            Filter::Or(self.several(deeper)?)
        } else if self.takes("!") {
            Filter::Not(Box::new(self.filter(deeper)?))
        } else {
            self.item()?
        };
        self.takes(")").then_some(filter)
    }

    fn several(&mut self, deeper: usize) -> Option<Vec<Filter>> {
        let mut all = Vec::new();
        while self.rest.trim_start().starts_with('(') {
            self.rest = self.rest.trim_start();
            all.push(self.filter(deeper)?);
        }
        self.rest = self.rest.trim_start();
        (!all.is_empty()).then_some(all)
    }

    fn item(&mut self) -> Option<Filter> {
        let attribute = self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';'));
        if self.takes(":") {
            let rule = if self.takes("=") { None } else { Some(self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))) };
            if rule.is_some() && !self.takes(":=") || rule.as_ref().is_some_and(String::is_empty) {
                return None;
            }
            let attribute = Some(attribute).filter(|attribute| !attribute.is_empty());
            return match self.parts()?.as_slice() {
                [value] if attribute.is_some() || rule.is_some() => Some(Filter::Rule(attribute, rule, value.clone())),
                _ => None,
            };
        }
        let comparisons = [("=", Comparison::Equal), (">=", Comparison::AtLeast), ("<=", Comparison::AtMost), ("~=", Comparison::Like)];
        let comparison = comparisons.into_iter().find(|(sign, _)| self.takes(sign))?.1;
        if attribute.is_empty() {
            return None;
        }
        match (self.parts()?.as_slice(), comparison) {
            ([value], _) => Some(Filter::Compare(attribute, comparison, value.clone())),
            ([before, after], Comparison::Equal) if before.is_empty() && after.is_empty() => Some(Filter::Present(attribute)),
            (parts, Comparison::Equal) => Some(Filter::Parts(attribute, parts.to_vec())),
            _ => None,
        }
    }

    fn word(&mut self, fits: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// A value up to the closing bracket, split at its stars, with `\28` and the like read as what they stand for.
    fn parts(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![Vec::new()];
        loop {
            let next = self.rest.chars().next()?;
            match next {
                ')' => break,
                '(' => return None,
                '*' => parts.push(Vec::new()),
                '\\' => {
                    let code = self.rest.get(1..3)?;
                    parts.last_mut()?.push(u8::from_str_radix(code, 16).ok()?);
                    self.rest = self.rest.get(3..)?;
                    continue;
                }
                other => parts.last_mut()?.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            self.rest = self.rest.get(next.len_utf8()..)?;
        }
        parts.into_iter().map(|part| String::from_utf8(part).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_stays_one_value_whatever_is_in_it() {
        let template = Template::parse("(&(objectClass=person)(|(uid={login})(mail={login}@example.org)))").unwrap();
        for login in ["*)(uid=*", "*", "a)(|(b=c", "", "\\2a", "анна", "\0", "{login}"] {
            let Filter::And(parts) = template.of(login) else { panic!() };
            let both = Filter::Or(vec![Filter::equal("uid", login), Filter::equal("mail", &format!("{login}@example.org"))]);
            assert_eq!(parts, [Filter::equal("objectClass", "person"), both], "{login}");
        }
    }

    #[test]
    fn who_has_a_number_must_still_be_one_whom_the_filter_finds() {
        let template = Template::parse("(&(memberOf=cn=staff,dc=x)(uid={login}))").unwrap();
        let inner = Filter::And(vec![Filter::equal("memberOf", "cn=staff,dc=x"), Filter::Present("uid".to_owned())]);
        assert_eq!(template.having("telephoneNumber", "1001"), Filter::And(vec![Filter::equal("telephoneNumber", "1001"), inner]));
    }

    #[test]
    fn every_form_of_a_filter_is_read() {
        let read = |text: &str| {
            let Filter::And(parts) = Template::parse(&format!("(&(uid={{login}}){text})")).unwrap().of("x") else { panic!() };
            parts[1].clone()
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(read("(cn=*)"), Filter::Present(text("cn")));
        assert_eq!(read("(cn=a*b**c)"), Filter::Parts(text("cn"), vec![text("a"), text("b"), text(""), text("c")]));
        assert_eq!(read("(cn=*b)"), Filter::Parts(text("cn"), vec![text(""), text("b")]));
        assert_eq!(read("(cn=\\28a\\2a\\d0\\b0)"), Filter::equal("cn", "(a*а"));
        assert_eq!(read(" (n>=1) "), Filter::Compare(text("n"), Comparison::AtLeast, text("1")));
        assert_eq!(read("(n<=1)"), Filter::Compare(text("n"), Comparison::AtMost, text("1")));
        assert_eq!(read("(n~=1)"), Filter::Compare(text("n"), Comparison::Like, text("1")));
        assert_eq!(read("(!(cn=a b))"), Filter::Not(Box::new(Filter::equal("cn", "a b"))));
        let disabled = "(userAccountControl:1.2.840.113556.1.4.803:=2)";
        assert_eq!(read(disabled), Filter::Rule(Some(text("userAccountControl")), Some(text("1.2.840.113556.1.4.803")), text("2")));
        assert_eq!(read("(:caseExactMatch:=a)"), Filter::Rule(None, Some(text("caseExactMatch")), text("a")));
    }

    #[test]
    fn a_filter_that_does_not_ask_for_the_login_or_is_none_is_refused() {
        for bad in ["(uid=*)", "(!(uid={login}))", "(uid={login}*)", "(uid>={login})"] {
            assert!(Template::parse(bad).unwrap_err().starts_with("does not ask"), "{bad}");
        }
        for bad in [
            "uid={login}",
            "(uid={login}",
            "(uid={login}))",
            "(&)",
            "()",
            "(={login})",
            "(uid=\\2{login})",
            "(u d={login})",
            "",
            "(:={login})",
        ] {
            assert!(Template::parse(bad).unwrap_err().starts_with("is no filter"), "{bad}");
        }
        let deep = format!("{}(uid={{login}}){}", "(!".repeat(1000), ")".repeat(1000));
        assert!(Template::parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[(){}&|!=*:<>~\\\\a-z0-9 ж]{0,40}") {
            let _ = Template::parse(&text);
        }
    }
}
