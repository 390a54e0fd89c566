//! Commands of the Call API, whichever way they came: names to operations, operations to answers.

use std::collections::HashMap;

use ssw_core::{Refusal, RefusalCause};

use crate::{
    call_api::{arm, tree::Tree},
    context::ServerContext,
    dialect::SimDialect,
    operations::{Reply, execute_operation},
};

/// Characters of a frame's name field.
const NAME_FIELD: usize = 32;
/// Service of the documented contact-centre commands.
pub(super) const ARM: &str = "cc/arm";

/// Service of the operations that the HTTP terminal has instead.
const TERMINAL: &str = "terminal";

/// Every name that may stand in a frame's name field, with the service and command that it means. A name that is longer than the
/// field is known by its first 32 characters.
pub(super) struct Catalogue(HashMap<String, (String, String)>);

/// How a command ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Done; the whole `<out>` document.
    Done(Tree),
    /// Refused; the whole `<out>` document with its `<error>`.
    Refused(Tree),
}

// === impl Catalogue ===

impl Catalogue {
    /// The names of a dialect.
    pub(super) fn of(dialect: &SimDialect) -> Self {
        let mut names = HashMap::new();
        let mut add = |field: String, service: &str, name: &str| {
            let field = field.chars().take(NAME_FIELD).collect();
            names.entry(field).or_insert_with(|| (service.to_owned(), name.to_owned()));
        };
        let prefix = |service: &str| dialect.call_api.name_prefix.replace("{service}", service);
        for shape in dialect.operations.values().filter(|shape| shape.service != TERMINAL) {
            add(format!("{}{}", prefix(&shape.service), shape.name), &shape.service, &shape.name);
        }
        for name in arm::COMMANDS {
            add(format!("{}{name}", prefix(ARM)), ARM, name);
            // The documented samples have the bare name.
            add(name.to_owned(), ARM, name);
        }
        Self(names)
    }

    /// The service and command of a name field.
    pub(super) fn find(&self, field: &str) -> Option<(&str, &str)> {
        self.0.get(field).map(|(service, name)| (service.as_str(), name.as_str()))
    }
}

// === impl Answer ===

impl Answer {
    /// A refusal with this cause, in the switch's words.
    pub(super) fn refused(command: &str, cause: &str) -> Self {
        Self::Refused(Tree::out(command, Tree::new("error").attribute("cause", cause)))
    }

    /// The refusal that stands for a command that cannot be carried out at all.
    pub(super) fn cannot(command: &str) -> Self {
        Self::refused(command, "cannot_perform_cmd")
    }

    /// An answer that only says that it is done.
    pub(super) fn ok(command: &str) -> Self {
        Self::Done(Tree::out(command, Tree::new("response").with(Tree::new("ok"))))
    }

    /// The document.
    pub(super) fn tree(&self) -> &Tree {
        match self {
            Self::Done(tree) | Self::Refused(tree) => tree,
        }
    }

    fn of(ctx: &ServerContext, command: &str, result: Result<Reply, Refusal>) -> Self {
        let reply = match result {
            Ok(reply) => reply,
            Err(refusal) => return Self::refused(command, ctx.dialect.refusal(refusal.cause)),
        };
        let mut response = Tree::new("response");
        match &reply.record {
            Some(record) => {
                response.content = reply.records.into_iter().map(|attributes| Tree { attributes, ..Tree::new(record.as_str()) }).collect();
            }
            None => response.content.push(Tree { attributes: reply.fields, ..Tree::new("ok") }),
        }
        Self::Done(Tree::out(command, response))
    }
}

/// Carries out a command; `document` is its `<in>` document.
pub(super) fn execute(ctx: &ServerContext, domain: &str, service: &str, command: &str, document: &Tree) -> Answer {
    let Some(request) = document.child("request").filter(|_| document.name == "in") else {
        return Answer::cannot(command);
    };
    if service == ARM {
        return match arm::execute(ctx, domain, command, request) {
            Some(result) => Answer::of(ctx, command, result),
            None => Answer::cannot(command),
        };
    }
    let Some((operation, _)) = ctx.dialect.operation(service, command).filter(|_| service != TERMINAL) else {
        return Answer::cannot(command);
    };
    Answer::of(ctx, command, execute_operation(&ctx.switch, &ctx.dialect, domain, operation, &request.attributes))
}

/// The refusal that a fault puts in place of a command.
pub(super) fn refuse_by_fault(ctx: &ServerContext, command: &str) -> Answer {
    Answer::refused(command, ctx.dialect.refusal(RefusalCause::BadState))
}
