//! mediator-client.
