//! The filter that finds a person (RFC 4515), with a place for the login. The login is put into the parsed filter, never into its text:
//! whatever is in it stays one value.

use ldap3_proto::{
    parse_ldap_filter_str,
    proto::{LdapFilter, LdapMatchingRuleAssertion, LdapSubstringFilter},
};

/// Where the login goes.
const PLACE: &str = "{login}";

/// A filter with a place for the login.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(LdapFilter);

/// What an inner comparison becomes.
enum Fill<'a> {
    /// It compares with this login.
    Login(&'a str),
    /// It asks only whether there is anything.
    Anybody,
}

// === impl Template ===

impl Template {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('\\') {
            return Err("has an escape, which is not taken here; compare with another attribute".to_owned());
        }
        let filter = parse_ldap_filter_str(text.trim()).map_err(|error| format!("is no filter: {error}"))?;
        if !asks(&filter) {
            return Err(format!("does not ask for {PLACE}: it would find the same person for everybody"));
        }
        Ok(Self(filter))
    }

    /// Finds the person of a login.
    pub(super) fn of(&self, login: &str) -> LdapFilter {
        fill(&self.0, &Fill::Login(login))
    }

    /// Finds whom this filter can find by a login at all, and who has a value in another attribute.
    pub(super) fn having(&self, attribute: &str, value: &str) -> LdapFilter {
        LdapFilter::And(vec![equal(attribute, value), fill(&self.0, &Fill::Anybody)])
    }
}

/// An attribute has a value.
pub(super) fn equal(attribute: &str, value: &str) -> LdapFilter {
    LdapFilter::Equality(attribute.to_owned(), value.to_owned())
}

/// A group has a member, with groups in groups (Active Directory's LDAP_MATCHING_RULE_IN_CHAIN).
pub(super) fn member_in_chain(attribute: &str, member: &str) -> LdapFilter {
    LdapFilter::Extensible(LdapMatchingRuleAssertion {
        matching_rule: Some("1.2.840.113556.1.4.1941".to_owned()),
        type_: Some(attribute.to_owned()),
        match_value: member.to_owned(),
        dn_attributes: false,
    })
}

/// Whatever there is.
pub(super) fn anything() -> LdapFilter {
    LdapFilter::Present("objectClass".to_owned())
}

fn asks(filter: &LdapFilter) -> bool {
    match filter {
        LdapFilter::And(inner) | LdapFilter::Or(inner) => inner.iter().any(asks),
        // Everybody but one is no person.
        LdapFilter::Not(_) | LdapFilter::Present(_) | LdapFilter::Substring(..) => false,
        LdapFilter::Equality(_, value) => value.contains(PLACE),
        LdapFilter::GreaterOrEqual(..) | LdapFilter::LessOrEqual(..) | LdapFilter::Approx(..) => false,
        LdapFilter::Extensible(assertion) => assertion.match_value.contains(PLACE),
    }
}

fn fill(filter: &LdapFilter, with: &Fill<'_>) -> LdapFilter {
    let each = |inner: &[LdapFilter]| inner.iter().map(|one| fill(one, with)).collect::<Vec<_>>();
    match (filter, with) {
        (LdapFilter::And(inner), _) => LdapFilter::And(each(inner)),
        (LdapFilter::Or(inner), _) => LdapFilter::Or(each(inner)),
        (LdapFilter::Not(inner), _) => LdapFilter::Not(Box::new(fill(inner, with))),
        (LdapFilter::Equality(attribute, value), Fill::Login(login)) => {
            LdapFilter::Equality(attribute.clone(), value.replace(PLACE, login))
        }
        (LdapFilter::Equality(attribute, value), Fill::Anybody) if value.contains(PLACE) => LdapFilter::Present(attribute.clone()),
        (LdapFilter::Extensible(assertion), Fill::Login(login)) => LdapFilter::Extensible(LdapMatchingRuleAssertion {
            match_value: assertion.match_value.replace(PLACE, login),
            ..assertion.clone()
        }),
        (LdapFilter::Extensible(assertion), Fill::Anybody) if assertion.match_value.contains(PLACE) => {
            LdapFilter::Present(assertion.type_.clone().unwrap_or_else(|| "objectClass".to_owned()))
        }
        (LdapFilter::Substring(attribute, parts), _) => LdapFilter::Substring(
            attribute.clone(),
            LdapSubstringFilter { initial: parts.initial.clone(), any: parts.any.clone(), final_: parts.final_.clone() },
        ),
        (other, _) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_stays_one_value_whatever_is_in_it() {
        let template = Template::parse("(&(objectClass=person)(|(uid={login})(mail={login}@example.org)))").unwrap();
        for login in ["*)(uid=*", "*", "a)(|(b=c", "", "\\2a", "анна", "\0"] {
            let LdapFilter::And(parts) = template.of(login) else { panic!() };
            let both = LdapFilter::Or(vec![equal("uid", login), equal("mail", &format!("{login}@example.org"))]);
            assert_eq!(parts, [equal("objectClass", "person"), both], "{login}");
        }
    }

    #[test]
    fn who_has_a_number_must_still_be_one_whom_the_filter_finds() {
        let template = Template::parse("(&(memberOf=cn=staff)(uid={login}))").or_else(|_| Template::parse("(&(ou=staff)(uid={login}))"));
        let filter = template.unwrap().having("telephoneNumber", "1001");
        let inner = LdapFilter::And(vec![equal("ou", "staff"), LdapFilter::Present("uid".to_owned())]);
        assert_eq!(filter, LdapFilter::And(vec![equal("telephoneNumber", "1001"), inner]));
    }

    #[test]
    fn a_filter_that_does_not_ask_for_the_login_is_refused() {
        for bad in ["(uid=*)", "(!(uid={login}))", "(uid={login}*)", "uid={login}", "(cn=\\28{login})", ""] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
