//! The CSTA framing: the same frames come out however the octets were cut into packets, and written again they are the octets read.
#![no_main]

use bytes::BytesMut;
use ecss_csta::frame::{Frame, FrameError, Framing};
use ecss_switch::dialect::CstaLength;
use libfuzzer_sys::fuzz_target;

/// All frames of a stream that arrives in packets of this size, and the error that ends it.
fn read(framing: Framing, stream: &[u8], packet: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut buffer = BytesMut::new();
    for packet in stream.chunks(packet) {
        buffer.extend_from_slice(packet);
        loop {
            match framing.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|octets: &[u8]| {
    let Some((packet, stream)) = octets.split_first() else { return };
    for length in [CstaLength::Whole, CstaLength::Body] {
        let framing = Framing::new(length);
        let (frames, error) = read(framing, stream, stream.len().max(1));
        let (by_packets, error_by_packets) = read(framing, stream, usize::from(*packet).max(1));
        assert_eq!(frames, by_packets);
        assert_eq!(error.is_some(), error_by_packets.is_some());
        let mut written = BytesMut::new();
        for frame in &frames {
            let Ok(body) = std::str::from_utf8(&frame.body) else { return };
            framing.encode(frame.invoke, body, &mut written).expect("what came out of a frame fits one");
        }
        assert!(stream.starts_with(&written));
    }
});
