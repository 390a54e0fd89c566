//! The terminal's documents: whatever reads is bounded by its octets and reads the same again once written; redaction leaves a document.
#![no_main]

use ecss_terminal::xml::{Limits, parse, parse_within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let small = Limits { bytes: 4096, depth: 4, nodes: 16 };
    if let Ok(element) = parse_within(octets, &small) {
        assert!(octets.len() <= small.bytes);
        assert!(element.walk().map(|element| 1 + element.attributes.len()).sum::<usize>() <= small.nodes);
    }
    let Ok(element) = parse(octets) else { return };
    assert!(element.walk().count() <= octets.len());
    let document = element.to_document();
    assert_eq!(parse(document.as_bytes()).as_ref(), Ok(&element), "{document}");
    assert!(parse(element.redacted().to_document().as_bytes()).is_ok());
});
