//! Status Service: who is online, away, in a call or in a conference, who does not want to be disturbed, and what they say about it.
//! What is shown is computed from layers – choice, devices, calls – and never written over, so that nothing has to be restored.

mod api;
mod board;
mod copies;
mod events;
mod service;
mod store;

use std::sync::Arc;

use elph_kit::{Kit, Service, database::DatabaseError};

use self::copies::Copies;
pub use self::{
    api::document,
    board::{Board, Key},
    service::{Availability, Choice, Chosen, Device, Devices, Note, Person, Shown, Status},
    store::{CHANGED, Changed, Store, migrate},
};

/// Under which it is reachable.
pub const PREFIX: &str = "/elph_status";

/// Brings its tables up to date, reads who is known and begins to follow the switches.
pub async fn start(kit: &Kit) -> Result<Service, DatabaseError> {
    let store = Store::open(&kit.database, &kit.bus).await?;
    let people = store.all().await.map_err(DatabaseError::Open)?;
    let board = Arc::new(Board::new(people));
    events::follow(kit, &board);
    let copies = Arc::new(Copies::new(kit, board.clone(), store.clone()));
    kit.tasks.spawn(copies::follow(copies.clone(), kit.stop.clone()));
    kit.tasks.spawn(board::expire(board.clone(), store.clone(), kit.stop.clone()));
    Ok(Service { name: "status", prefix: PREFIX, routes: api::routes(kit, copies, board, store), document: document() })
}
