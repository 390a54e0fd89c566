//! Dialect overrides as an operator may write them: refused or complete, and a refusal says something. What was taken, written out and
//! taken again is the same dialect.
#![no_main]

use ecss_switch::Dialect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(overrides) = toml::from_str::<toml::Table>(text) else { return };
    for base in ["documented", "sim"] {
        match Dialect::with_overrides(base, &overrides) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(dialect) => {
                let _ = dialect.refusal(text);
                let Ok(whole) = toml::Table::try_from(&dialect) else { continue };
                let again = Dialect::with_overrides(base, &whole).expect("a dialect that was taken is taken again");
                assert_eq!(Dialect { name: dialect.name.clone(), ..again }, dialect);
            }
        }
    }
});
