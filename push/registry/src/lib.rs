//! The durable registry of devices that pushes go to: who has which token. It knows neither calls nor providers' protocols; RFC 8599
//! names what a phone registers with, ecss10-interfaces §5 what the switch makes of it.
//!
//! **Store.** One `redb` file: pure Rust, a B-tree with copy-on-write pages, a cache of a fixed size, one file lock, MIT or Apache-2.0. `fjall`
//! (a log-structured tree) writes less per registration, but keeps memtables, journals and worker threads for a load that is a few writes a
//! second, and `heed` (LMDB, in C) maps the file, so that its resident memory is not ours to bound. `rusqlite` is the most proven of all, yet
//! is C and ties the whole workspace to one `libsqlite3-sys`, which the suite's `sqlx` chooses.
//!
//! **Rules.**
//! - A token belongs to one user at a time, whatever the domain: who registers it last has it, and the device that had it is gone.
//! - A user's device is known by its label within an application: a new token for the label is the same device, its id stays. Without a label,
//!   or under a new one, it is known by its token. If label and token name two devices of the user, the labelled one stays.
//! - A user who has as many devices as allowed loses the one that registered longest ago: it is most likely the phone that was replaced, and
//!   refusing the new one would keep it from ringing. Above the total limit new devices are refused, refreshes are not.
//! - A token that a provider calls gone is removed, unless it was registered after the provider's timestamp, or after the push was sent that
//!   was answered so.
//!
//! **Durability.** A change is on disk when it is answered. One thread writes; what waits meanwhile is committed together. After `kill -9` the
//! file opens without a repair, but is compared with its checksums: whatever stopped the agent may have been damage in it. If the disk is full
//! or fails, the change is refused and the file is opened anew.
//!
//! **Reads** run on two threads of their own, one of which is always left to lookups. From the cache they take microseconds; a page that is
//! not in it is read from the file, up to five per device, which costs microseconds from the system's page cache and a disk's access time
//! otherwise. No thread of the runtime waits for it.
//!
//! **Size.** A million devices with FCM's tokens are a file of 544 MiB; `examples/million.rs` measures time and memory.

mod check;
mod device;
mod error;
mod reader;
mod registry;
mod rules;
mod store;
mod tables;
mod writer;

pub use check::Report;
pub use device::{Counts, Cursor, Domains, Gone, Imported, NewDevice, Page, Registered};
pub use error::{Error, OpenError};
pub use registry::{Options, Registry};
