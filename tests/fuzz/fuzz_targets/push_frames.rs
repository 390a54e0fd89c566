//! A provider that says anything at all while requests are open: no panic, memory within bounds, every request ends exactly once, what is
//! written are whole frames, and it makes no difference how the octets were cut into packets.
#![no_main]

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use push_wire::{
    Connection, Event, Limits, Request,
    hpack::{Field, Head},
};

const REQUESTS: u32 = 6;

/// What happened, in the order of the requests, what was written, and whether the peer broke the rules.
fn run(octets: &[u8], packet: usize) -> (Vec<String>, Vec<u8>, bool) {
    let mut connection = Connection::new(Limits { wanted: &["apns-id"], streams_at_first: 100, ..Limits::default() });
    let head = Arc::new(Head::new(vec![Field::kept(":method", &b"POST"[..]), Field::kept("apns-topic", &b"com.example"[..])]));
    let mut open = BTreeSet::new();
    for number in 0..REQUESTS {
        let own = [Field::once("apns-id", number.to_string().into_bytes())];
        let request = Request { path: &[b"/3/device/", b"0a"], head: &head, own: &own, body: Bytes::from(vec![b'x'; 20_000]) };
        if connection.request(&request, number).is_ok() {
            open.insert(number);
        }
    }
    let (mut events, mut kept, mut written, mut broken) = (Vec::new(), Vec::new(), Vec::new(), false);
    let mut event = |event: Event<u32>| {
        if let Event::Answered(number, _) | Event::Failed(number, _) = &event {
            assert!(open.remove(number), "it ends once");
        }
        events.push(format!("{event:?}"));
    };
    for packet in octets.chunks(packet) {
        kept.extend_from_slice(packet);
        match connection.receive(&kept, &mut event) {
            Ok(read) => drop(kept.drain(..read)),
            Err(_) => {
                broken = true;
                break;
            }
        }
        assert!(kept.len() < 9 + 16_384);
    }
    connection.swap_output(&mut written);
    connection.end(&mut event);
    assert!(open.is_empty(), "every request ends");
    events.sort();
    (events, written, broken)
}

/// Whole frames, none larger than the peer may be sent.
fn check(written: &[u8]) {
    let mut rest = written.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice()).expect("the preface comes first");
    while !rest.is_empty() {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        assert!(length <= 16_384);
        rest = &rest[9 + length..];
    }
}

fuzz_target!(|octets: &[u8]| {
    let Some((packet, octets)) = octets.split_first() else { return };
    let whole = run(octets, octets.len().max(1));
    check(&whole.1);
    assert!(whole.1.len() < 24 + 200_000 + 20 * octets.len());
    assert_eq!(whole, run(octets, usize::from(*packet).max(1)));
});
