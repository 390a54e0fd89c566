//! Operations whose command only the dialect can name, where it says that they go over the terminal.

use std::collections::BTreeMap;

use ecss_switch::{
    CommandError, Operation,
    dialect::{CommandShape, Field},
};

use crate::{client::Terminal, session::Command, xml::Element};

/// The service that the terminal is in a `CommandShape`.
pub const SERVICE: &str = "terminal";

impl Terminal {
    /// Runs an operation and returns its result. A field that the dialect does not name is not sent.
    pub async fn operation(&self, operation: Operation, fields: &BTreeMap<Field, String>) -> Result<BTreeMap<Field, String>, CommandError> {
        self.operation_with(operation, fields, false).await
    }

    /// The same; `confirm`: a question of the switch may be answered with yes.
    pub async fn operation_with(
        &self,
        operation: Operation,
        fields: &BTreeMap<Field, String>,
        confirm: bool,
    ) -> Result<BTreeMap<Field, String>, CommandError> {
        let (shape, document) = self.perform(operation, fields, confirm).await?;
        let found = |name: &str| document.walk().skip(1).find_map(|element| element.get(name));
        Ok(shape.result.iter().filter_map(|(field, name)| Some((*field, found(name)?.to_owned()))).collect())
    }

    /// Runs an operation that lists, and returns its records.
    pub async fn operation_records(
        &self,
        operation: Operation,
        fields: &BTreeMap<Field, String>,
    ) -> Result<Vec<BTreeMap<Field, String>>, CommandError> {
        let (shape, document) = self.perform(operation, fields, false).await?;
        let Some(record) = &shape.record else { return Ok(Vec::new()) };
        let read = |element: &Element| {
            let value = |(field, name): (&Field, &String)| Some((*field, element.get(name)?.to_owned()));
            shape.result.iter().filter_map(value).collect()
        };
        Ok(document.all(record).map(read).collect())
    }

    async fn perform(
        &self,
        operation: Operation,
        fields: &BTreeMap<Field, String>,
        confirm: bool,
    ) -> Result<(&CommandShape, Element), CommandError> {
        let shape = self.dialect().operations.get(&operation).filter(|shape| shape.service == SERVICE);
        let shape = shape.ok_or(CommandError::Unnamed { operation })?;
        let mut request = Element::new("request");
        for (name, value) in &shape.fixed {
            request = request.with(&**name, &**value);
        }
        for (field, name) in &shape.fields {
            request = request.with_some(name, fields.get(field).map(String::as_str));
        }
        // Only what lists is known to change nothing.
        let command = if shape.record.is_some() { Command::read(&shape.name, request) } else { Command::change(&shape.name, request) };
        let reply = self.run(Command { confirm, ..command }).await?;
        Ok((shape, reply.document))
    }
}
