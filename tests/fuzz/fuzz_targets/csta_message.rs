//! CSTA messages: whatever reads can be written in the standard's form and reads the same again; what is made of it never panics;
//! secrets stay out of what is recorded.
#![no_main]

use std::sync::LazyLock;

use ecss_csta::{
    message::{AnswerBody, Event, Incoming, PROTOCOL_VERSION, Request, redacted},
    observe::Observer,
};
use ecss_switch::{Dialect, Domain};
use libfuzzer_sys::fuzz_target;

static DIALECT: LazyLock<Dialect> = LazyLock::new(|| Dialect::built_in("documented").expect("it is built in"));
static DOMAIN: LazyLock<Domain> = LazyLock::new(|| Domain::parse("biysk.local").expect("it is a domain"));

fn event_written_again(event: &Event<'_>) {
    let mut written = String::new();
    event.write(PROTOCOL_VERSION, &mut written);
    match Incoming::read(written.as_bytes()) {
        Ok(Incoming::Event(read)) => assert_eq!(&read, event, "{written}"),
        other => panic!("{written} reads as {other:?}"),
    }
}

fuzz_target!(|octets: &[u8]| {
    match Incoming::read(octets) {
        Ok(Incoming::Event(event)) => {
            event_written_again(&event);
            let _ = Observer::new(&DIALECT, &DOMAIN).observe(&event, None);
        }
        Ok(Incoming::Answer(answer)) => {
            let mut written = String::new();
            answer.write(PROTOCOL_VERSION, &mut written);
            if let AnswerBody::Error(error) = &answer.body {
                let _ = (error.text(), error.reason(&DIALECT));
            }
        }
        _ => {}
    }
    if let Ok(Some(request)) = Request::read(octets) {
        let mut written = String::new();
        request.write(PROTOCOL_VERSION, &mut written);
        let again = Request::read(written.as_bytes());
        assert!(matches!(&again, Ok(Some(again)) if again.service() == request.service()), "a {:?} is lost", request.service());
    }
    if let Ok(text) = std::str::from_utf8(octets) {
        let once = redacted(text);
        assert_eq!(redacted(&once), once);
    }
});
