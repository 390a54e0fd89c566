//! How this switch writes CSTA. Seed 0 writes the standard's plain form; other seeds write what other vendors' switches were seen to
//! write (ecss10-interfaces §3): prefixes, other editions' namespaces, children in another order or missing, empty elements.

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use crate::csta::element::Element;

/// Namespace of edition 3, the one that the vendor documents.
pub(crate) const ED3: &str = "http://www.ecma-international.org/standards/ecma-323/csta/ed3";
/// Namespace of ECMA-354's session services.
pub(crate) const SESSION: &str = "http://www.ecma-international.org/standards/ecma-354/appl_session";

/// Namespaces seen in answers to requests in edition 3: other editions, a misspelt host, none.
const NAMESPACES: [&str; 6] = [
    ED3,
    "http://www.ecma-international.org/standards/ecma-323/csta/ed5",
    "http://www.ecma-international.org/standards/ecma-323/csta/ed4",
    "http://www.ecma-international.org/standards/ecma-323/csta/ed2",
    "http://www.ecma-internatonal.org/standards/ecma-323/csta/ed6",
    "",
];
/// Prefixes seen.
const PREFIXES: [&str; 3] = ["", "csta", "ns3"];
/// In how many messages a variation appears: one of so many.
const ONE_IN: u32 = 4;

/// How one connection's messages are written.
#[derive(Debug)]
pub(crate) struct Style {
    prefix: &'static str,
    namespace: &'static str,
    declaration: bool,
    /// Varies single messages; absent in the plain style.
    rng: Option<SmallRng>,
}

// === impl Style ===

impl Style {
    /// The style of a switch with this seed.
    pub(crate) fn of_seed(seed: u64) -> Self {
        if seed == 0 {
            return Self { prefix: "", namespace: ED3, declaration: true, rng: None };
        }
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x6373_7461);
        let namespace = NAMESPACES.get(rng.random_range(0..NAMESPACES.len())).copied().unwrap_or(ED3);
        let prefix = PREFIXES.get(rng.random_range(0..PREFIXES.len())).copied().unwrap_or_default();
        // A prefix without a declared namespace would not be well formed.
        let prefix = if namespace.is_empty() { "" } else { prefix };
        Self { prefix, namespace, declaration: rng.random(), rng: Some(rng) }
    }

    /// Writes a message of the session services; these were always seen in their own namespace.
    pub(crate) fn session(&self, root: &Element) -> String {
        let mut out = String::with_capacity(512);
        self.declare(&mut out);
        root.write_root("", false, SESSION, &mut out);
        out
    }

    /// Writes an answer.
    pub(crate) fn answer(&mut self, root: Element) -> String {
        self.message(root)
    }

    /// Writes an event, whose children may also be disordered or missing.
    pub(crate) fn event(&mut self, mut root: Element) -> String {
        if let Some(rng) = &mut self.rng {
            if rng.random_ratio(1, ONE_IN) {
                root.children.retain(|child| child.name != "lastRedirectionDevice");
            }
            if rng.random_ratio(1, 2 * ONE_IN) {
                root.children.retain(|child| child.name != "localConnectionInfo");
            }
            // The monitor's reference was always seen first.
            if rng.random_ratio(1, ONE_IN)
                && let Some((_, rest)) = root.children.split_first_mut()
            {
                rest.shuffle(rng);
            }
        }
        self.message(root)
    }

    fn message(&mut self, mut root: Element) -> String {
        let mut expand = false;
        if let Some(rng) = &mut self.rng {
            if rng.random_ratio(1, ONE_IN) {
                swap_connections(&mut root);
            }
            if rng.random_ratio(1, 2 * ONE_IN) {
                write_nids(&mut root);
            }
            expand = rng.random_ratio(1, ONE_IN);
        }
        let mut out = String::with_capacity(1024);
        self.declare(&mut out);
        root.write_root(self.prefix, expand, self.namespace, &mut out);
        out
    }

    fn declare(&self, out: &mut String) {
        if self.declaration {
            out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        }
    }
}

/// Writes `deviceID` before `callID` in every connection.
fn swap_connections(element: &mut Element) {
    if let [first, second] = &mut element.children[..]
        && (first.name.as_ref(), second.name.as_ref()) == ("callID", "deviceID")
    {
        std::mem::swap(first, second);
    }
    element.children.iter_mut().for_each(swap_connections);
}

/// Writes devices in NID form: a number with a name and parameters.
fn write_nids(element: &mut Element) {
    if element.name == "deviceIdentifier" {
        let number = &element.text;
        element.text = format!("N<{number}>Subscriber {number};displayNumber={number};noa=nk");
    }
    element.children.iter_mut().for_each(write_nids);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered() -> Element {
        let connection = Element::new("connection").with(Element::text("callID", "c1")).with(Element::text("deviceID", "1002"));
        Element::new("DeliveredEvent")
            .with(Element::text("monitorCrossRefID", "1"))
            .with(connection)
            .with(Element::new("lastRedirectionDevice").with(Element::new("notRequired")))
            .with(Element::text("localConnectionInfo", "alerting"))
    }

    #[test]
    fn seed_0_writes_the_standards_form_every_time() {
        let mut style = Style::of_seed(0);
        let expected = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeliveredEvent xmlns=\"{ED3}\"><monitorCrossRefID>1</monitorCrossRefID>\
             <connection><callID>c1</callID><deviceID>1002</deviceID></connection>\
             <lastRedirectionDevice><notRequired/></lastRedirectionDevice><localConnectionInfo>alerting</localConnectionInfo></DeliveredEvent>"
        );
        assert!((0..50).all(|_| style.event(delivered()) == expected));
    }

    #[test]
    fn other_seeds_vary_and_stay_well_formed_with_the_monitor_first() {
        for seed in 1..40 {
            let mut style = Style::of_seed(seed);
            let texts: std::collections::BTreeSet<_> = (0..50).map(|_| style.event(delivered())).collect();
            assert!(texts.len() > 3, "seed {seed}");
            for text in &texts {
                let root = Element::parse(text.as_bytes()).unwrap();
                assert_eq!(root.name, "DeliveredEvent");
                assert_eq!(root.children[0].name, "monitorCrossRefID", "seed {seed}");
                let connection = root.child("connection").unwrap();
                assert_eq!((connection.child_text("callID"), connection.child_text("deviceID")), (Some("c1"), Some("1002")));
            }
        }
    }
}
