//! A subscriber's view, fed with any stream of messages in any order: ids are keys, what has ended is gone, counts equal the roster
//! wherever a participant has changed.
#![no_main]

use elph_proto::{
    v1::{CallState, ConferenceState, SubscribeResponse, event::Change, subscribe_response::Message},
    view::{View, counts},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|octets: &[u8]| {
    let mut rest = octets;
    let mut view = View::default();
    while !rest.is_empty() {
        let Ok(response) = SubscribeResponse::decode_length_delimited(&mut rest) else { return };
        let change = match &response.message {
            Some(Message::Event(event)) => event.change.clone(),
            _ => None,
        };
        view.apply(response);
        match change {
            Some(Change::Participant(change)) if change.participant.is_some() => {
                if let Some(conference) = view.conferences.get(&change.conference_id) {
                    assert_eq!((conference.connected_count, conference.pending_count), counts(&conference.participants));
                    assert_eq!(conference.version, change.conference_version);
                }
            }
            Some(Change::Call(call)) => assert_eq!(view.calls.contains_key(&call.id), call.state() != CallState::Ended),
            Some(Change::Conference(conference)) => {
                assert_eq!(view.conferences.contains_key(&conference.id), conference.state() != ConferenceState::Ended);
            }
            _ => {}
        }
        assert!(view.calls.iter().all(|(id, call)| *id == call.id));
        assert!(view.conferences.iter().all(|(id, conference)| *id == conference.id));
    }
});
