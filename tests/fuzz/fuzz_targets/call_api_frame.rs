//! The Call API's frames under every framing: whatever reads can be written and reads the same again, without flaws.
#![no_main]

use ecss_call_api::frame::{Flaws, Frame, Framing};
use ecss_switch::dialect::{EventFrame, LengthUnit, Pad};
use libfuzzer_sys::fuzz_target;

/// The framing that the first octet chooses.
fn framing(choice: u8) -> Framing {
    Framing {
        pad: if choice & 1 == 0 { Pad::Space } else { Pad::Nul },
        unit: if choice & 2 == 0 { LengthUnit::Bytes } else { LengthUnit::Characters },
        event: match choice >> 2 & 3 {
            0 => EventFrame::RequestId { request_id: "0000".to_owned() },
            1 => EventFrame::RequestId { request_id: "9999".to_owned() },
            2 => EventFrame::Status { status: "EVT".to_owned() },
            _ => EventFrame::Status { status: "100".to_owned() },
        },
    }
}

fn written_again(framing: &Framing, frame: &Frame<'_>, is_request: bool) {
    let Ok(written) = framing.encode(frame) else {
        // a request that bears the id of events is read, never written
        assert!(is_request, "{frame:?} was read and cannot be written");
        return;
    };
    let read = if is_request { framing.decode_request(&written) } else { framing.decode(&written) };
    let read = read.unwrap_or_else(|bad| panic!("{written:?} was written and cannot be read: {bad:?}"));
    assert_eq!((&read.frame, read.flaws), (frame, Flaws::default()), "{written:?}");
}

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let framing = framing(*choice);
    if let Ok(read) = framing.decode(text) {
        written_again(&framing, &read.frame, false);
    }
    if let Ok(read) = framing.decode_request(text) {
        written_again(&framing, &read.frame, true);
    }
});
