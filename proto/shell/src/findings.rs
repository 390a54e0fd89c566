//! What a `doctor` has found: each thing that was looked at, how it is, and what to do about it.

use std::fmt;

use serde::Serialize;
use serde_json::json;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Well,
    Know,
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    mark: Mark,
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// All of them, in the order in which they were looked at.
#[derive(Debug, Clone, Default)]
pub struct Findings(Vec<Finding>);

// === impl Findings ===

impl Findings {
    /// Nothing is to be mended.
    pub fn all_well(&self) -> bool {
        !self.0.iter().any(|finding| finding.mark == Mark::Wrong)
    }

    /// It is as it should be.
    pub fn well(&mut self, what: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Well, what: what.into(), advice: None });
    }

    /// It may be meant so; one should know it.
    pub fn know(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Know, what: what.into(), advice: Some(advice.into()) });
    }

    /// It is to be mended, and how.
    pub fn wrong(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Wrong, what: what.into(), advice: Some(advice.into()) });
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", json!({ "well": self.all_well(), "findings": self.0 }))
    }
}

/// For people.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { mark, what, advice } in &self.0 {
            let mark = match mark {
                Mark::Well => "well ",
                Mark::Know => "know ",
                Mark::Wrong => "WRONG",
            };
            writeln!(f, "{mark} {what}")?;
            if let Some(advice) = advice {
                writeln!(f, "      -> {advice}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_to_be_mended_makes_it_unwell() {
        let mut findings = Findings::default();
        findings.well("a");
        findings.know("b", "c");
        assert!(findings.all_well());
        findings.wrong("d", "e");
        assert!(!findings.all_well());
        assert_eq!(findings.to_string(), "well  a\nknow  b\n      -> c\nWRONG d\n      -> e\n");
        let json: serde_json::Value = serde_json::from_str(&findings.to_json()).unwrap();
        assert_eq!((json["well"].as_bool(), json["findings"][2]["advice"].as_str()), (Some(false), Some("e")));
    }
}
