//! The journal: one truth for every worker, replica and restart.
//!
//! Each Envoy worker has its own wasm VM. What any of them routes is appended to a ring in shared data, and each folds
//! the ring into its own view before it decides, so that all of them know what one of them did.
//!
//! A [`Record`] says what happened; a [`Ring`] is how records are appended and read without a head and without locks.
//! Warmth from other sources (KV events of the engine, peers) comes as the same records.

mod record;
mod ring;

pub use record::{Body, Record, SlotError, add_records, append_slot, decode_slot, encode_slot};
pub use ring::{ABSENT, Caught, Ring, Store, StoreError};

#[cfg(test)]
pub(crate) use record::tests::record as any_record;
