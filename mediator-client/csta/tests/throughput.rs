//! How fast events go from frames to observations. Run it in release: `cargo test --release -p ecss-csta --test throughput -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use ecss_csta::{
    frame::{Framing, InvokeId},
    message::Incoming,
    observe::Observer,
};
use ecss_switch::{Dialect, Domain};

#[test]
#[ignore = "a measurement, not a check of behaviour"]
fn events_per_second_on_one_core() {
    let dialect = Dialect::built_in("sim").unwrap();
    let framing = Framing::new(dialect.csta.length);
    let mut observer = Observer::new(&dialect, &Domain::parse("biysk.local").unwrap());
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><EstablishedEvent xmlns=\"http://www.ecma-international.org/standards/ecma-323/csta/ed3\">\
        <monitorCrossRefID>7</monitorCrossRefID><establishedConnection><callID>0_99f261b4</callID><deviceID typeOfNumber=\"dialingNumber\">1002\
        </deviceID></establishedConnection><answeringDevice><deviceIdentifier typeOfNumber=\"dialingNumber\">1002</deviceIdentifier></answeringDevice>\
        <callingDevice><deviceIdentifier typeOfNumber=\"dialingNumber\">1001</deviceIdentifier></callingDevice><calledDevice>\
        <deviceIdentifier typeOfNumber=\"dialingNumber\">1002</deviceIdentifier></calledDevice><lastRedirectionDevice><notRequired/>\
        </lastRedirectionDevice><localConnectionInfo>connected</localConnectionInfo><cause>newCall</cause></EstablishedEvent>";
    let mut batch = BytesMut::new();
    for _ in 0..1000 {
        framing.encode(InvokeId::EVENT, text, &mut batch).unwrap();
    }
    let (mut events, start) = (0_u64, Instant::now());
    while start.elapsed() < Duration::from_secs(2) {
        let mut wire = BytesMut::from(&batch[..]);
        while let Some(frame) = framing.decode(&mut wire).unwrap() {
            let Ok(Incoming::Event(event)) = Incoming::read(&frame.body) else { panic!("no event") };
            observer.observe(&event, None).unwrap();
            events += 1;
        }
    }
    eprintln!("{:.0} events/s of {} octets", events as f64 / start.elapsed().as_secs_f64(), text.len());
}
