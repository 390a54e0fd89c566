//! How two ways to write the same push differ, and whether each difference is known and explained. The pushes themselves and the crates
//! they are compared with are in `tests/pushes`.

pub mod difference;
pub mod table;
