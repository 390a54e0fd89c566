//! The Call API's trees in JSON and XML, and what is read out of them: answers and events of the simulator's dialect, which names all.
#![no_main]

use std::sync::{Arc, LazyLock};

use ecss_call_api::{
    shape::{Answer, EventTable, read_answer, read_outcome},
    tree::{Element, from_json, from_xml, to_json, to_xml},
};
use ecss_switch::{Dialect, Domain};
use libfuzzer_sys::fuzz_target;

static DIALECT: LazyLock<Arc<Dialect>> = LazyLock::new(|| Arc::new(Dialect::built_in("sim").expect("it is built in")));
static EVENTS: LazyLock<EventTable> =
    LazyLock::new(|| EventTable::new(Arc::clone(&DIALECT), Domain::parse("biysk.local").expect("it is a domain")));

fn interpret(roots: &[Element<'_>]) {
    for name in EVENTS_BY_NAME.iter().map(|name| Some(name.as_str())).chain([None]) {
        let _ = EVENTS.read(name, roots);
    }
    if let Answer::Done(response) = read_answer("200", Some(roots), &DIALECT) {
        for (operation, shape) in &DIALECT.operations {
            let _ = read_outcome(*operation, shape, response, &DIALECT);
        }
    }
}

static EVENTS_BY_NAME: LazyLock<Vec<String>> = LazyLock::new(|| DIALECT.events.values().map(|event| event.name.clone()).collect());

fuzz_target!(|octets: &[u8]| {
    if let Ok(roots) = std::str::from_utf8(octets).map_err(drop).and_then(|json| from_json(json).map_err(drop)) {
        let json = to_json(&roots);
        assert_eq!(from_json(&json).as_ref(), Ok(&roots), "{json}");
        interpret(&roots);
    }
    if let Ok(root) = from_xml(octets) {
        // writing trims texts; from then on nothing changes any more
        let trimmed = from_xml(to_xml(&root).as_bytes()).expect("what was written is read");
        assert_eq!(from_xml(to_xml(&trimmed).as_bytes()).as_ref(), Ok(&trimmed));
        interpret(&[root]);
    }
});
