//! Journald's layer with the fields shown in the message, too: `journalctl` prints messages alone, and an operator must see *why*
//! without knowing of `-o verbose`. The fields stay fields.

use std::fmt;

use tracing::{
    Event, Subscriber,
    field::{Field, Value, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Most fields of an event; tracing's own bound.
const MOST: usize = 32;

/// Hands each event to journald with a message that says everything.
pub struct Told(tracing_journald::Layer);

/// An event's fields, kept with their types.
#[derive(Default)]
struct Fields {
    values: Vec<(Field, Kept)>,
}

enum Kept {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Boolean(bool),
}

impl Told {
    /// Connects to journald.
    pub fn connect(identifier: &str, prefix: &str) -> std::io::Result<Self> {
        let layer = tracing_journald::layer()?;
        Ok(Self(layer.with_syslog_identifier(identifier.to_owned()).with_field_prefix(Some(prefix.to_owned()))))
    }
}

impl<S: Subscriber + for<'lookup> LookupSpan<'lookup>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, span: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        self.0.on_record(span, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Some(message) = event.metadata().fields().field("message") else {
            return self.0.on_event(event, context);
        };
        let text = fields.told();
        // Every place of the array must hold a field; those without a value are skipped.
        let mut set: [(&Field, Option<&dyn Value>); MOST] = [(&message, None); MOST];
        let told = std::iter::once((&message, Some(&text as &dyn Value)));
        let others = fields.values.iter().filter(|(field, _)| *field != message).map(|(field, kept)| (field, Some(kept.value())));
        for (place, value) in set.iter_mut().zip(told.chain(others)) {
            *place = value;
        }
        // Hidden from tracing's documentation, but what its macros expand to.
        let values = event.metadata().fields().value_set(&set);
        self.0.on_event(&Event::new(event.metadata(), &values), context);
    }
}

impl Fields {
    /// `message key=value …`
    fn told(&self) -> String {
        let mut text = String::new();
        for (_, kept) in self.values.iter().filter(|(field, _)| field.name() == "message") {
            text.push_str(&kept.to_string());
        }
        for (field, kept) in self.values.iter().filter(|(field, _)| field.name() != "message") {
            text.push_str(&format!(" {}={kept}", field.name()));
        }
        text
    }

    fn keep(&mut self, field: &Field, kept: Kept) {
        self.values.push((field.clone(), kept));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.keep(field, Kept::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, Kept::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, Kept::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, Kept::Boolean(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, Kept::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, Kept::Text(format!("{value:?}")));
    }
}

impl Kept {
    fn value(&self) -> &dyn Value {
        match self {
            Self::Text(text) => text,
            Self::Signed(value) => value,
            Self::Unsigned(value) => value,
            Self::Float(value) => value,
            Self::Boolean(value) => value,
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Boolean(value) => value.fmt(f),
        }
    }
}
