//! Header compression: whatever a block says, reading it ends, within bounds; and what was read is read again from what we write of it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use push_wire::hpack::{Decoder, Encoder, Field, Head, Way};

/// Ours have names that the program knows; these stand for them.
const NAMES: [&str; 4] = [":authority", "apns-topic", "apns-id", "x"];

fuzz_target!(|octets: &[u8]| {
    let (mut theirs, mut encoder, mut ours) = (Decoder::default(), Encoder::default(), Decoder::default());
    // Several blocks in one input: the tables live on. Each begins with its length.
    let mut rest = octets;
    while let Some((length, behind)) = rest.split_first() {
        let (block, next) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = next;
        let mut fields = Vec::new();
        let result = theirs.decode(block, |name, value| fields.push((name.len(), value.to_vec())));
        assert!(fields.len() <= block.len());
        let ways = [Way::Kept, Way::Once, Way::Secret];
        let field = |(at, (name, value)): (usize, &(usize, Vec<u8>))| Field {
            name: NAMES[name % NAMES.len()],
            value: value.clone().into(),
            way: ways[(at + value.len()) % ways.len()],
        };
        let own: Vec<_> = fields.iter().enumerate().map(field).collect();
        let head = Arc::new(Head::new(own.clone()));
        encoder.resize(usize::from(*length) * 20);
        for _ in 0..2 {
            let mut written = Vec::new();
            encoder.encode(&mut written, &[block], &head, &own);
            let mut expected = vec![(":path", block)];
            expected.extend(own.iter().chain(&own).map(|field| (field.name, &*field.value)));
            let mut at = 0;
            ours.decode(&written, |name, value| {
                assert_eq!((name, value), (expected[at].0.as_bytes(), expected[at].1));
                at += 1;
            })
            .expect("what we write can be read");
            assert_eq!(at, expected.len());
        }
        if result.is_err() {
            return;
        }
    }
});
