//! Dialect overrides as an operator may write them: refused or complete, and a refusal says something. What was taken, written out and
//! taken again is the same dialect; what was taken away is not in what is written out, and is taken away again.
#![no_main]

use ecss_switch::Dialect;
use libfuzzer_sys::fuzz_target;
use toml::{Table, Value};

fuzz_target!(|text: &str| {
    let Ok(overrides) = toml::from_str::<Table>(text) else { return };
    for base in ["documented", "sim"] {
        match Dialect::with_overrides(base, &overrides) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(dialect) => {
                let _ = dialect.refusal(text);
                let Ok(mut whole) = Table::try_from(&dialect) else { continue };
                take_away(&mut whole, &overrides);
                let again = Dialect::with_overrides(base, &whole).expect("a dialect that was taken is taken again");
                assert_eq!(Dialect { name: dialect.name.clone(), ..again }, dialect);
            }
        }
    }
});

/// Adds the empty texts of `overrides`, which take away what the base has.
fn take_away(whole: &mut Table, overrides: &Table) {
    for (key, value) in overrides {
        match (value, whole.get_mut(key)) {
            (Value::String(text), None) if text.is_empty() => drop(whole.insert(key.clone(), value.clone())),
            (Value::Table(overrides), Some(Value::Table(whole))) => take_away(whole, overrides),
            _ => {}
        }
    }
}
