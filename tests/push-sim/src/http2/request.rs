//! A request as it came: its fields in one buffer, so that reading one allocates nothing once buffers are warm.

/// Bytes of all names and values together that are kept.
const MAX_FIELDS: usize = 16 * 1024;

/// Fields and body of one request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    text: Vec<u8>,
    /// End of name and end of value of each field in `text`.
    spans: Vec<(u32, u32)>,
    /// What the client has sent of its body, as far as it is kept.
    pub(crate) body: Vec<u8>,
    /// More came than is kept.
    pub(crate) fields_cut: bool,
    /// More body came than is kept.
    pub(crate) body_cut: bool,
}

// === impl Request ===

impl Request {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.spans.clear();
        self.body.clear();
        self.fields_cut = false;
        self.body_cut = false;
    }

    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        if self.text.len() + name.len() + value.len() > MAX_FIELDS {
            self.fields_cut = true;
            return;
        }
        self.text.extend_from_slice(name);
        let end_of_name = self.text.len();
        self.text.extend_from_slice(value);
        let end = |at: usize| u32::try_from(at).unwrap_or_default();
        self.spans.push((end(end_of_name), end(self.text.len())));
    }

    /// Fields in the order they came, pseudo-header fields too.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0usize;
        self.spans.iter().map(move |(name, value)| {
            let (name, value) = (*name as usize, *value as usize);
            let field = (self.text.get(start..name).unwrap_or_default(), self.text.get(name..value).unwrap_or_default());
            start = value;
            field
        })
    }

    /// The first field of a name.
    pub(crate) fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}
