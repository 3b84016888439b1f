//! What all streams, to Envoys and to peers, share; and the ways in which records enter this process.

use crate::clock::{Clock, wall};
use crate::exchange::{Exchange, Source};
use crate::feed::OpenStreams;
use crate::memory::{Folded, Key, Memories, Memory, Shared};
use crate::observe::metrics::{FeedMetrics, PeerMetrics};
use crate::peers::Peers;
use crate::records::{ClockOffset, packed};
use crate::table::{Published, Tables};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::{Arc, MutexGuard};
use warmpath_core::journal::{Body, Record, decode_slot};
use warmpath_core::prefix::MAX_BOUNDARIES;
use warmpath_core::units::Origin;

/// The shared.
#[derive(Debug)]
pub struct Hub {
    /// The newest table.
    pub tables: Tables,
    /// What was routed where.
    pub memories: Memories,
    /// The same as it becomes known, for those who have not seen it.
    pub exchange: Exchange,
    /// The open feed streams.
    pub open: OpenStreams,
    /// The other sidecars.
    pub peers: Peers,
    /// Counts of the feed.
    pub metrics: Arc<FeedMetrics>,
    /// Counts of the exchange with peers.
    pub peer_metrics: Arc<PeerMetrics>,
    /// The time.
    pub clock: Clock,
    /// Slots a second of a refill.
    pub refill_rate: u32,
    /// This sidecar: what its refills carry, and how peers know it. Random, new at each start.
    pub own: Origin,
}

impl Hub {
    /// Takes slots of an Envoy's ring.
    pub fn take_journal(
        &self,
        key: &Arc<Key>,
        memory: &Shared,
        origin: Origin,
        clock: ClockOffset,
        position: u64,
        slots: &[Bytes],
    ) -> Folded {
        let (folded, new) = self.in_step(memory).fold(origin, position, slots, clock, wall());
        self.exchange.add(key, Source::Envoy(origin), new);
        self.metrics.folded(&folded);
        folded
    }

    /// Takes what a peer's Envoys routed. Dropped where no Envoy here has such a view: one that comes later asks for
    /// all. Also dropped is what an Envoy of this sidecar routed itself, whoever sends it back. Gives whose it was.
    pub fn take_routed(&self, key: &Arc<Key>, clock: ClockOffset, slots: &[Bytes]) -> HashSet<Origin> {
        let Some(memory) = self.memories.get(key) else { return HashSet::new() };
        let own: Vec<Origin> = self.open.all().iter().map(|stream| stream.origin).collect();
        let is_foreign = |record: &Record| {
            !own.contains(&record.request.origin) && !matches!(record.body, Body::Table { .. } | Body::RefillWanted)
        };
        let records = self.read(clock, slots, is_foreign);
        self.fold(&memory, &records);
        self.exchange.add(key, Source::Peer, packed(&records));
        records.iter().map(|record| record.request.origin).collect()
    }

    /// Takes a part of all that a peer knows.
    pub fn take_refill(&self, memory: &Shared, clock: ClockOffset, slots: &[Bytes]) {
        let is_warmth = |record: &Record| matches!(record.body, Body::Warm { .. } | Body::Stored { .. });
        let records = self.read(clock, slots, is_warmth);
        self.fold(memory, &records);
    }

    /// An Envoy is gone, here or behind a peer: its requests are over, which nobody else would say. What they computed
    /// stays warm.
    pub fn gone(&self, key: &Arc<Key>, origin: Origin, source: Source) {
        let Some(memory) = self.memories.get(key) else { return };
        let over = |request| {
            let body = Body::Done { prompt: None, cached: None, output: None };
            Record { request, at: wall(), body }
        };
        let requests = memory.lock().view().in_flight_of(origin);
        if requests.is_empty() {
            return;
        }
        tracing::info!(
            plugin = key.0,
            origin = origin.0,
            requests = requests.len(),
            "an Envoy is gone, with its requests"
        );
        let records: Vec<Record> = requests.into_iter().map(over).collect();
        self.fold(&memory, &records);
        self.exchange.add(key, source, packed(&records));
    }

    /// All warmth that is known of a view, as slots for a ring.
    pub async fn refill(self: &Arc<Self>, memory: Arc<Shared>) -> Vec<Bytes> {
        let hub = Arc::clone(self);
        // A full view takes tens of milliseconds to write out, which no stream should wait for.
        let slots = tokio::task::spawn_blocking(move || hub.in_step(&memory).refill(hub.own));
        slots.await.unwrap_or_default()
    }

    /// The newest table.
    #[must_use]
    pub fn newest_table(&self) -> Option<Arc<Published>> {
        self.tables.borrow().clone()
    }

    fn read(&self, clock: ClockOffset, slots: &[Bytes], wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let mut records = Vec::new();
        for slot in slots {
            // A broken peer must not fill every ring and index here.
            match decode_slot(slot) {
                Ok(some) if some.iter().all(|record| boundaries(record) <= MAX_BOUNDARIES) => {
                    records.extend(some.into_iter().filter(&wanted));
                }
                _ => {
                    self.peer_metrics.bad.inc();
                }
            }
        }
        clock.apply(&mut records);
        self.peer_metrics.records.inc_by(records.len() as u64);
        records
    }

    fn fold(&self, memory: &Shared, records: &[Record]) {
        self.in_step(memory).fold_records(records, wall());
    }

    /// The memory, locked, with the newest table in force.
    pub(crate) fn in_step<'a>(&self, memory: &'a Shared) -> MutexGuard<'a, Memory> {
        let mut memory = memory.lock();
        if let Some(published) = self.newest_table() {
            memory.sync(&published, wall());
        }
        memory
    }
}

fn boundaries(record: &Record) -> usize {
    match &record.body {
        Body::Route { boundaries, .. } | Body::Extend { boundaries, .. } | Body::Warm { boundaries, .. } => {
            boundaries.len()
        }
        _ => 0,
    }
}
