//! Every frame that a peer may send, and every one that it may not, octet by octet (RFC 9113).
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails in a helper fails the test")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use push_wire::{
    Answer, Broken, Code, Connection, Event, Failure, Limits, Refused, Request,
    hpack::{Decoder, Field, Head},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;
/// `:status: 200` and `:status: 404`.
const OK: &[u8] = &[0x88];
const NOT_FOUND: &[u8] = &[0x8d];

/// A connection and what it wrote.
struct Client {
    connection: Connection<usize>,
    head: Arc<Head>,
    decoder: Decoder,
}

/// A frame: kind, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = list.iter().flat_map(|(which, value)| [&which.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

fn frames(mut octets: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let length = usize::from(octets[1]) << 8 | usize::from(octets[2]);
        frames.push((octets[3], octets[4], u32::from_be_bytes(octets[5..9].try_into().unwrap()), octets[9..9 + length].to_vec()));
        octets = &octets[9 + length..];
    }
    frames
}

impl Client {
    /// With the peer's settings received.
    fn new(list: &[(u16, u32)]) -> Self {
        let limits = Limits { header_list: 1000, body: 100, wanted: &["apns-id", "retry-after"], ..Limits::default() };
        let fields = vec![Field::kept(":method", &b"POST"[..]), Field::kept("apns-topic", &b"com.example.phone"[..])];
        let mut client = Self { connection: Connection::new(limits), head: Arc::new(Head::new(fields)), decoder: Decoder::default() };
        let first = client.written_raw();
        assert_eq!(&first[..24], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let kinds: Vec<_> = frames(&first[24..]).into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [SETTINGS, WINDOW_UPDATE]);
        client.receive(&settings(list)).unwrap();
        assert_eq!(client.written(), [(SETTINGS, ACK, 0, vec![])]);
        client
    }

    fn written_raw(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        self.connection.swap_output(&mut output);
        output
    }

    fn written(&mut self) -> Vec<Frame> {
        frames(&self.written_raw())
    }

    fn receive(&mut self, octets: &[u8]) -> Result<Vec<Event<usize>>, Broken> {
        let mut events = Vec::new();
        let read = self.connection.receive(octets, |event| events.push(event))?;
        assert_eq!(read, octets.len());
        Ok(events)
    }

    fn request(&mut self, number: usize, body: &[u8]) -> Result<u32, Refused> {
        let id = number.to_string();
        let own = [Field::once("apns-id", id.as_bytes())];
        let request = Request { path: &[b"/3/device/", b"0a"], head: &self.head, own: &own, body: Bytes::copy_from_slice(body) };
        self.connection.request(&request, number)
    }

    /// Requests `0..count`, and forgets what was written.
    fn requested(mut self, count: usize) -> Self {
        (0..count).for_each(|number| assert!(self.request(number, b"{}").is_ok()));
        self.written_raw();
        self
    }

    fn fields(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let mut fields = Vec::new();
        self.decoder.decode(block, |name, value| fields.push((text(name), text(value)))).unwrap();
        fields
    }
}

fn answer(status: u16, body: &[u8]) -> Answer {
    Answer { status, fields: Default::default(), body: body.to_vec() }
}

#[test]
fn a_request_is_a_head_and_a_body() {
    let mut client = Client::new(&[]);
    assert_eq!(client.request(7, b"{}"), Ok(1));
    assert_eq!(client.request(8, b""), Ok(3));
    let frames = client.written();
    let heads: Vec<_> = frames.iter().map(|(kind, flags, stream, _)| (*kind, *flags, *stream)).collect();
    assert_eq!(heads, [(HEADERS, END_HEADERS, 1), (DATA, END_STREAM, 1), (HEADERS, END_HEADERS | END_STREAM, 3)]);
    let fields = client.fields(&frames[0].3);
    let expected = [(":path", "/3/device/0a"), (":method", "POST"), ("apns-topic", "com.example.phone"), ("apns-id", "7")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(frames[1].3, b"{}");
    assert_eq!(client.fields(&frames[2].3)[3].1, "8");
}

#[test]
fn answers_have_status_wanted_fields_and_body_whole_or_cut() {
    let mut client = Client::new(&[]).requested(4);
    let literal = |name: &[u8], value: &[u8]| [&[0, name.len() as u8], name, &[value.len() as u8], value].concat();
    let block = [OK, &literal(b"x-other", b"1"), &literal(b"apns-id", b"abc")].concat();
    let events = client.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &block)).unwrap();
    let [Event::Answered(1, Answer { status: 200, fields, body })] = &events[..] else { panic!("{events:?}") };
    assert_eq!((fields.get("apns-id"), fields.get("retry-after"), body.len()), (Some(&b"abc"[..]), None, 0));
    // In pieces, padded, with a priority, an interim answer before and trailers behind.
    let padded = [&[2][..], &[0, 0, 0, 0, 9], NOT_FOUND, &[0, 0]].concat();
    let mut octets = frame(HEADERS, END_HEADERS, 1, &literal(b":status", b"103"));
    octets.extend(frame(HEADERS, PADDED | WITH_PRIORITY, 1, &padded));
    octets.extend(frame(CONTINUATION, 0, 1, &[]));
    octets.extend(frame(CONTINUATION, END_HEADERS, 1, &literal(b"retry-after", b"7")));
    octets.extend(frame(DATA, PADDED, 1, &[&[3][..], b"{}", &[0; 3]].concat()));
    octets.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &literal(b"x-trailer", b"1")));
    let events = client.receive(&octets).unwrap();
    let [Event::Answered(0, Answer { status: 404, fields, body })] = &events[..] else { panic!("{events:?}") };
    assert_eq!((fields.get("retry-after"), &**body), (Some(&b"7"[..]), &b"{}"[..]));
    // Cut where nobody reads on.
    let octets = [frame(HEADERS, END_HEADERS, 5, OK), frame(DATA, 0, 5, &[b'x'; 101])].concat();
    assert_eq!(client.receive(&octets), Ok(vec![Event::Answered(2, answer(200, &[b'x'; 100]))]));
    assert_eq!(client.written(), [(RST_STREAM, 0, 5, vec![0, 0, 0, 8])]);
    // The connection ends in the middle: the status counts.
    assert_eq!(client.receive(&frame(HEADERS, END_HEADERS, 7, OK)), Ok(vec![]));
    let mut events = Vec::new();
    client.connection.end(|event| events.push(event));
    assert_eq!(events, [Event::Answered(3, answer(200, b""))]);
}

#[test]
fn only_as_many_are_open_as_the_peer_takes_whatever_it_changes() {
    let limits = Limits::default();
    let mut client = Client { connection: Connection::new(limits), ..Client::new(&[]) };
    assert_eq!(client.request(0, b"{}"), Ok(1));
    assert_eq!(client.request(1, b"{}"), Err(Refused::Full), "before its settings the peer is tried with one");
    assert_eq!(client.receive(&settings(&[(3, 2)])), Ok(vec![Event::Limit(2)]));
    assert_eq!(client.request(1, b"{}"), Ok(3));
    assert_eq!(client.request(2, b"{}"), Err(Refused::Full));
    assert_eq!(client.receive(&settings(&[(3, 0)])), Ok(vec![Event::Limit(0)]));
    client.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, OK)).unwrap();
    assert_eq!(client.connection.reset(3), Some(1));
    assert_eq!(client.request(2, b"{}"), Err(Refused::Full));
    client.receive(&settings(&[(3, 1)])).unwrap();
    assert_eq!(client.request(2, b"{}"), Ok(5));
}

#[test]
fn bodies_wait_for_windows_of_stream_and_connection() {
    let mut client = Client::new(&[(4, 3)]);
    client.request(0, b"abcdefgh").unwrap();
    client.request(1, b"xyz").unwrap();
    let data = |client: &mut Client| {
        let bodies = client.written().into_iter().filter(|(kind, ..)| *kind == DATA);
        bodies.map(|(_, flags, stream, octets)| (stream, String::from_utf8(octets).unwrap(), flags)).collect::<Vec<_>>()
    };
    assert_eq!(data(&mut client), [(1, "abc".to_owned(), 0), (3, "xyz".to_owned(), END_STREAM)]);
    client.receive(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 2])).unwrap();
    assert_eq!(data(&mut client), [(1, "de".to_owned(), 0)]);
    // Less than was used already, then more.
    client.receive(&settings(&[(4, 1)])).unwrap();
    client.receive(&settings(&[(4, 4)])).unwrap();
    assert_eq!(data(&mut client), [(1, "f".to_owned(), 0)]);
    client.receive(&settings(&[(4, 100)])).unwrap();
    assert_eq!(data(&mut client), [(1, "gh".to_owned(), END_STREAM)]);
    // An answer before the body was taken: the rest is not wanted.
    client.receive(&settings(&[(4, 0)])).unwrap();
    client.request(2, b"late").unwrap();
    client.written_raw();
    let events = client.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 5, NOT_FOUND));
    assert_eq!(events, Ok(vec![Event::Answered(2, answer(404, b""))]));
    assert_eq!(client.written(), [(RST_STREAM, 0, 5, vec![0, 0, 0, 8])]);
    // The connection's own window: 65535 octets less what was sent.
    client.receive(&settings(&[(4, 1 << 20)])).unwrap();
    client.written_raw();
    client.request(3, &vec![b'x'; 70_000]).unwrap();
    let sent: usize = data(&mut client).iter().map(|(_, octets, _)| octets.len()).sum();
    assert_eq!(sent, 65_535 - 11);
    client.receive(&frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])).unwrap();
    let rest = data(&mut client);
    assert_eq!((rest.iter().map(|(_, octets, _)| octets.len()).sum::<usize>() + sent, rest[0].2), (70_000, END_STREAM));
}

#[test]
fn a_long_head_is_cut_into_frames() {
    let mut client = Client::new(&[]);
    let long = Arc::new(Head::new(vec![Field::kept("x", vec![b'v'; 40_000])]));
    client.connection.request(&Request { path: &[b"/"], head: &long, own: &[], body: Bytes::new() }, 0).unwrap();
    let frames = client.written();
    let heads: Vec<_> = frames.iter().map(|(kind, flags, stream, _)| (*kind, *flags, *stream)).collect();
    assert_eq!(heads, [(HEADERS, END_STREAM, 1), (CONTINUATION, 0, 1), (CONTINUATION, END_HEADERS, 1)]);
    let block: Vec<u8> = frames.into_iter().flat_map(|(_, _, _, octets)| octets).collect();
    assert_eq!(client.fields(&block)[1].1.len(), 40_000);
    client.receive(&settings(&[(6, 100)])).unwrap();
    assert_eq!(client.request(1, b""), Err(Refused::TooLong));
}

#[test]
fn pings_are_answered_and_asked() {
    let mut client = Client::new(&[]);
    client.receive(&frame(PING, 0, 0, b"12345678")).unwrap();
    assert_eq!(client.written(), [(PING, ACK, 0, b"12345678".to_vec())]);
    client.connection.ping();
    client.connection.ping();
    let [(PING, 0, 0, octets)] = &client.written()[..] else { panic!("one ping at a time") };
    assert_eq!(client.receive(&frame(PING, ACK, 0, b"another!")), Ok(vec![]));
    assert_eq!(client.receive(&frame(PING, ACK, 0, octets)), Ok(vec![Event::Pong]));
}

#[test]
fn after_goaway_the_unprocessed_fail_the_others_are_answered_and_nothing_new_is_taken() {
    let mut client = Client::new(&[]).requested(3);
    let away = |last: u32| frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4], b"tired"].concat());
    assert_eq!(client.receive(&away(0x7fff_ffff)), Ok(vec![Event::GoAway(Code::NO_ERROR, "tired".to_owned())]));
    assert_eq!(client.request(9, b"{}"), Err(Refused::Leaving));
    let mut events = client.receive(&away(1)).unwrap();
    events.remove(0);
    events.sort_by_key(|event| if let Event::Failed(number, _) = event { *number } else { 0 });
    let unprocessed = Failure::NotProcessed(Code::NO_ERROR);
    assert_eq!(events, [Event::Failed(1, unprocessed), Event::Failed(2, unprocessed)]);
    let events = client.receive(&frame(HEADERS, END_HEADERS | END_STREAM, 1, OK));
    assert_eq!(events, Ok(vec![Event::Answered(0, answer(200, b""))]));
    assert_eq!(client.receive(&away(3)).unwrap_err().code, Code::PROTOCOL_ERROR, "it takes nothing back");
}

#[test]
fn resets_say_whether_a_request_may_be_repeated() {
    let mut client = Client::new(&[]).requested(3);
    let reset = |stream, code: u32| frame(RST_STREAM, 0, stream, &code.to_be_bytes());
    assert_eq!(client.receive(&reset(1, 7)), Ok(vec![Event::Failed(0, Failure::NotProcessed(Code::REFUSED_STREAM))]));
    assert_eq!(client.receive(&reset(3, 8)), Ok(vec![Event::Failed(1, Failure::Reset(Code::CANCEL))]));
    client.receive(&frame(HEADERS, END_HEADERS, 5, NOT_FOUND)).unwrap();
    assert_eq!(client.receive(&reset(5, 7)), Ok(vec![Event::Answered(2, answer(404, b""))]), "its status has come");
    assert_eq!(client.receive(&reset(5, 8)), Ok(vec![]), "late ones are ignored");
}

#[test]
fn answers_that_are_none_end_their_request_alone() {
    let literal = |name: &[u8], value: &[u8]| [&[0, name.len() as u8], name, &[value.len() as u8], value].concat();
    let last = END_HEADERS | END_STREAM;
    for (why, octets) in [
        ("no status", frame(HEADERS, last, 1, &literal(b"x", b"1"))),
        ("two", frame(HEADERS, last, 1, &[OK, OK].concat())),
        ("a status that is none", frame(HEADERS, last, 1, &literal(b":status", b"2x0"))),
        ("behind fields", frame(HEADERS, last, 1, &[&literal(b"x", b"1"), OK].concat())),
        ("of requests", frame(HEADERS, last, 1, &[OK, &[0x82]].concat())),
        ("upper case", frame(HEADERS, last, 1, &[OK, &literal(b"X", b"1")].concat())),
        ("a line break", frame(HEADERS, last, 1, &[OK, &literal(b"x", b"a\r\nb")].concat())),
        ("an interim answer that ends", frame(HEADERS, last, 1, &literal(b":status", b"100"))),
        ("a body without a head", frame(DATA, END_STREAM, 1, b"x")),
        ("two heads", [frame(HEADERS, END_HEADERS, 1, OK), frame(HEADERS, END_HEADERS, 1, OK)].concat()),
        ("too many fields", frame(HEADERS, last, 1, &[OK.to_vec(), literal(b"x", &[b'v'; 100]).repeat(9)].concat())),
        ("an empty window", frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ("a window that is too large", frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
    ] {
        let mut client = Client::new(&[]).requested(2);
        let events = client.receive(&octets).unwrap();
        assert!(matches!(events[..], [Event::Failed(0, Failure::Malformed(_))]), "{why}: {events:?}");
        assert_eq!(client.written(), [(RST_STREAM, 0, 1, vec![0, 0, 0, 1])], "{why}");
        let next = client.receive(&frame(HEADERS, last, 3, OK));
        assert_eq!(next, Ok(vec![Event::Answered(1, answer(200, b""))]), "{why}");
    }
}

#[test]
fn what_breaks_the_rules_ends_the_connection_with_the_right_code() {
    let protocol = Code::PROTOCOL_ERROR;
    let size = Code::FRAME_SIZE_ERROR;
    let flow = Code::FLOW_CONTROL_ERROR;
    for (why, code, octets) in [
        ("a push", protocol, frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
        ("a stream of its own", protocol, frame(HEADERS, END_HEADERS, 2, OK)),
        ("a stream that is not open yet", protocol, frame(HEADERS, END_HEADERS, 5, OK)),
        ("a body on the connection", protocol, frame(DATA, 0, 0, b"x")),
        ("padding", protocol, frame(DATA, PADDED, 1, &[5, 0, 0])),
        ("no padding", protocol, frame(DATA, PADDED, 1, &[])),
        ("a short priority", protocol, frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0; 4])),
        ("an interruption", protocol, [frame(HEADERS, 0, 1, OK), frame(PING, 0, 0, &[0; 8])].concat()),
        ("another stream's piece", protocol, [frame(HEADERS, 0, 1, OK), frame(CONTINUATION, END_HEADERS, 3, &[])].concat()),
        ("a piece of nothing", protocol, frame(CONTINUATION, END_HEADERS, 1, OK)),
        ("a flood of pieces", Code::ENHANCE_YOUR_CALM, [frame(HEADERS, 0, 1, OK), frame(CONTINUATION, 0, 1, &[]).repeat(40)].concat()),
        ("header compression", Code::COMPRESSION_ERROR, frame(HEADERS, END_HEADERS, 1, &[0xff])),
        ("a frame too large", size, frame(DATA, 0, 1, &[0; 16_385])),
        ("a short reset", size, frame(RST_STREAM, 0, 1, &[0; 3])),
        ("a reset of nothing", protocol, frame(RST_STREAM, 0, 0, &[0; 4])),
        ("a short priority frame", size, frame(PRIORITY, 0, 1, &[0; 4])),
        ("a priority of nothing", protocol, frame(PRIORITY, 0, 0, &[0; 5])),
        ("settings on a stream", protocol, frame(SETTINGS, 0, 1, &[])),
        ("odd settings", size, frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement with settings", size, frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a client", protocol, settings(&[(2, 1)])),
        ("a window", flow, settings(&[(4, 1 << 31)])),
        ("small frames", protocol, settings(&[(5, 16_383)])),
        ("large frames", protocol, settings(&[(5, 1 << 24)])),
        ("a short ping", size, frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", protocol, frame(PING, 0, 1, &[0; 8])),
        ("a flood of pings", Code::ENHANCE_YOUR_CALM, frame(PING, 0, 0, &[0; 8]).repeat(10_001)),
        ("a short good-bye", size, frame(GOAWAY, 0, 0, &[0; 7])),
        ("a good-bye on a stream", protocol, frame(GOAWAY, 0, 1, &[0; 8])),
        ("a short window", size, frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("an empty window", protocol, frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window of nothing", protocol, frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1])),
        ("a window too large", flow, frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("windows that grow too large", flow, [frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xfe, 0, 0]), settings(&[(4, 1 << 30)])].concat()),
    ] {
        let mut client = Client::new(&[]).requested(2);
        let broken = client.receive(&octets).map(|events| format!("{events:?}")).expect_err(why);
        assert_eq!(broken.code, code, "{why}: {broken}");
        let last = client.written().pop().unwrap();
        assert_eq!((last.0, &last.3[4..]), (GOAWAY, &code.0.to_be_bytes()[..]), "{why}");
        assert_eq!(client.request(9, b"{}"), Err(Refused::Leaving));
        let mut failed = 0;
        client.connection.end(|event| failed += usize::from(matches!(event, Event::Failed(_, Failure::Lost))));
        assert_eq!((failed, client.connection.open()), (2, 0), "{why}");
    }
    let mut client = Client { connection: Connection::new(Limits::default()), ..Client::new(&[]) };
    assert_eq!(client.receive(&frame(PING, 0, 0, &[0; 8])).unwrap_err().code, protocol, "settings come first");
}

#[test]
fn bodies_of_answers_keep_the_window_open_and_more_than_that_breaks_it() {
    let mut client = Client::new(&[]);
    let mut told = 0;
    for number in 0..1000 {
        let stream = client.request(number, b"{}").unwrap();
        let octets = [frame(HEADERS, END_HEADERS, stream, OK), frame(DATA, END_STREAM, stream, &[b'x'; 16_000])].concat();
        assert_eq!(client.receive(&octets).unwrap().len(), 1);
        let updates = client.written().into_iter().filter(|(kind, ..)| *kind == WINDOW_UPDATE);
        told += updates.map(|(_, _, _, octets)| u32::from_be_bytes(octets.try_into().unwrap())).sum::<u32>();
    }
    assert!(told > 1000 * 16_000 - (1 << 20), "{told}");
}

#[test]
fn what_a_later_standard_adds_is_ignored() {
    let mut client = Client::new(&[(0x99, 7)]).requested(1);
    let octets = [frame(0xbe, 0xff, 1, b"?"), frame(PRIORITY, 0, 9, &[0; 5]), frame(SETTINGS, ACK, 0, &[])].concat();
    assert_eq!(client.receive(&octets), Ok(vec![]));
    assert_eq!(client.written(), []);
}

proptest! {
    /// However the octets are cut into packets, the same happens.
    #[test]
    fn packets_make_no_difference_and_nothing_makes_it_panic_or_grow(
        kinds in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..12, prop::collection::vec(any::<u8>(), 0..40)), 1..40),
        answers in any::<bool>(),
        packet in 1_usize..60,
    ) {
        let mut octets = Vec::new();
        for (kind, flags, stream, payload) in &kinds {
            if answers {
                octets.extend(frame(HEADERS, END_HEADERS | (flags & END_STREAM), *stream, OK));
            }
            octets.extend(frame(*kind, *flags, *stream, payload));
        }
        let whole = {
            let mut client = Client::new(&[]).requested(5);
            let mut events = Vec::new();
            let result = client.connection.receive(&octets, |event| events.push(format!("{event:?}")));
            (result.map(|_| ()), sorted(events), client.written_raw())
        };
        let mut client = Client::new(&[]).requested(5);
        let (mut events, mut result, mut kept) = (Vec::new(), Ok(()), Vec::new());
        for packet in octets.chunks(packet) {
            kept.extend_from_slice(packet);
            match client.connection.receive(&kept, |event| events.push(format!("{event:?}"))) {
                Ok(read) => drop(kept.drain(..read)),
                Err(broken) => {
                    result = Err(broken);
                    break;
                }
            }
            prop_assert!(kept.len() < 9 + 16_384);
        }
        let written = client.written_raw();
        prop_assert!(written.len() <= 10 * octets.len() + 100);
        prop_assert_eq!((result, sorted(events), written), whole);
        let open = client.connection.open();
        let mut ended = 0;
        client.connection.end(|_| ended += 1);
        prop_assert_eq!(open, ended);
    }
}

/// Those of one frame come in no order.
fn sorted(mut events: Vec<String>) -> Vec<String> {
    events.sort();
    events
}
