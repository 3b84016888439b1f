//! What was routed where, as the journals of the connected Envoys and of the peers tell it: the map that a new or
//! lapped VM is refilled from. One view for each plugin and hash fingerprint, because hashes of another fingerprint
//! mean nothing here.

use crate::records::{ClockOffset, SLOT_BYTES, is_of};
use crate::table::Published;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use warmpath_core::config::Config;
use warmpath_core::journal::{Body, Record, decode_slot, encode_slot};
use warmpath_core::units::{Millis, Origin};
use warmpath_core::view::{View, ViewLimits};

/// Views at most; each is bounded by core's [`ViewLimits`].
pub const MAX_VIEWS: usize = 16;

/// Envoy processes whose journal position a view remembers.
const MAX_ORIGINS: usize = 64;

/// No ring is longer (core caps it there), so a position further back than this is not an overlap of two senders but a
/// ring that began anew.
const LONGEST_RING: u64 = 1 << 20;

/// What came of a journal message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Slots folded.
    pub slots: u64,
    /// Records folded.
    pub records: u64,
    /// Slots that could not be read.
    pub bad: u64,
    /// Slots that had been folded before: two VMs of one Envoy overlapped.
    pub repeated: u64,
    /// Slots that never came.
    pub lost: u64,
    /// A VM asked for all that is known.
    pub refill_wanted: bool,
}

/// Whether the peers were asked for what they know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeersAsked {
    /// Not yet, or the one that was asked knew nothing.
    #[default]
    No,
    /// One of them is being asked.
    Now,
    /// One of them has told.
    Done,
}

/// One plugin's view.
#[derive(Debug)]
pub struct Memory {
    view: View,
    /// The filter's, if it has told it and this version understands it.
    config: Option<Config>,
    defaults: Config,
    positions: HashMap<Origin, Position>,
    /// Whether the peers were asked for what they know.
    pub peers_asked: PeersAsked,
}

/// Where an Envoy stands.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The next slot of its ring, once any has come.
    next: Option<u64>,
    /// Up to where it was told what others routed, if its stream has ended.
    told: Option<u64>,
    seen_at: Millis,
}

impl Default for Memory {
    fn default() -> Self {
        let view = View::new(ViewLimits::default());
        Self {
            view,
            config: None,
            defaults: Config::default(),
            positions: HashMap::new(),
            peers_asked: PeersAsked::default(),
        }
    }
}

impl Memory {
    /// Takes over a table unless it is in force already.
    pub fn sync(&mut self, published: &Published, now: Millis) {
        if published.table.version != self.view.table_version() {
            self.view.apply_table(&published.table, now);
        }
    }

    /// Takes over the configuration of a filter, as its newest Hello told it.
    ///
    /// # Errors
    /// What is wrong with one that this version does not understand; it counts as not known.
    pub fn set_config(&mut self, json: &[u8]) -> Result<(), String> {
        // An older filter says nothing; one with defaults alone may say nothing either.
        let config = if json.is_empty() { Ok(None) } else { Config::parse(json).map(Some) };
        self.config = config.as_ref().ok().cloned().flatten();
        config.map(drop).map_err(|error| error.to_string())
    }

    /// The filter's configuration; where it is not known, the defaults.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.config.as_ref().unwrap_or(&self.defaults)
    }

    /// Whether the filter has told it.
    #[must_use]
    pub fn config_is_known(&self) -> bool {
        self.config.is_some()
    }

    /// Folds slots of `origin`'s ring, the first at `position`. Also gives those of them that others have not seen, their
    /// moments by this host's clock: not what the Envoy itself heard from others.
    pub fn fold(
        &mut self,
        origin: Origin,
        position: u64,
        slots: &[Bytes],
        clock: ClockOffset,
        now: Millis,
    ) -> (Folded, Vec<Bytes>) {
        let mut folded = Folded::default();
        let mut new = Vec::new();
        let known = self.positions.get(&origin).copied();
        let is_believed = |next: &u64| next.saturating_sub(position) < LONGEST_RING;
        let expected = known.and_then(|k| k.next).filter(is_believed).unwrap_or(position);
        folded.lost = position.saturating_sub(expected);
        let repeated = expected.saturating_sub(position).min(slots.len() as u64);
        folded.repeated = repeated;
        for slot in slots.iter().skip(usize::try_from(repeated).unwrap_or(usize::MAX)) {
            folded.slots += 1;
            let Ok(mut records) = decode_slot(slot) else {
                folded.bad += 1;
                continue;
            };
            folded.records += records.len() as u64;
            folded.refill_wanted |= records.iter().any(|record| record.body == Body::RefillWanted);
            let all = records.len();
            records.retain(|record| is_of(record, origin));
            clock.apply(&mut records);
            self.fold_records(&records, now);
            if records.len() == all && clock.is_none() {
                // A copy: the slot is a part of the whole message, which would be kept with it.
                new.push(Bytes::copy_from_slice(slot));
            } else if !records.is_empty() {
                new.push(encode_slot(&records).into());
            }
        }
        let next = Some(position.saturating_add(slots.len() as u64).max(expected));
        self.remember(origin, Position { next, told: known.and_then(|k| k.told), seen_at: now });
        (folded, new)
    }

    /// Folds records that came another way than through an Envoy's journal.
    pub fn fold_records(&mut self, records: &[Record], now: Millis) {
        for record in records {
            self.view.fold(record, now);
        }
    }

    /// Up to where an Envoy was told what others routed, when its last stream ended. Taken out: a stream that begins
    /// while another of the same Envoy is open knows nothing of where that one is.
    pub fn take_told(&mut self, origin: Origin) -> Option<u64> {
        self.positions.get_mut(&origin)?.told.take()
    }

    /// Keeps that for its next stream.
    pub fn set_told(&mut self, origin: Origin, told: u64, now: Millis) {
        let known = self.positions.get(&origin).copied();
        let told = known.and_then(|known| known.told).map_or(told, |other| other.max(told));
        self.remember(origin, Position { next: known.and_then(|k| k.next), told: Some(told), seen_at: now });
    }

    fn remember(&mut self, origin: Origin, position: Position) {
        if self.positions.len() >= MAX_ORIGINS && !self.positions.contains_key(&origin) {
            let oldest = self.positions.iter().min_by_key(|(_, p)| p.seen_at).map(|(origin, _)| *origin);
            if let Some(oldest) = oldest {
                self.positions.remove(&oldest);
            }
        }
        self.positions.insert(origin, position);
    }

    /// All warmth that is known, as slots for the ring.
    #[must_use]
    pub fn refill(&self, own: Origin) -> Vec<Bytes> {
        self.view.refill(own, SLOT_BYTES).into_iter().map(Bytes::from).collect()
    }

    /// The view.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }
}

/// A view that streams share. A stream holds its `Arc`, which keeps the view from being dropped.
#[derive(Debug, Default)]
pub struct Shared {
    memory: Mutex<Memory>,
    from_peers: watch::Sender<u64>,
}

impl Shared {
    /// The memory, locked. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer has told all that it knows, which the Envoys that are connected should know as well.
    pub fn filled_by_peer(&self) {
        self.from_peers.send_modify(|n| *n += 1);
    }

    /// Tells when a peer has.
    #[must_use]
    pub fn fillings(&self) -> watch::Receiver<u64> {
        self.from_peers.subscribe()
    }
}

/// Whose view: the plugin's name and its fingerprint.
pub type Key = (String, u64);

/// All views.
#[derive(Debug, Default)]
pub struct Memories {
    views: Mutex<BTreeMap<Key, Entry>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    opened_at: Millis,
}

impl Entry {
    fn streams(&self) -> usize {
        Arc::strong_count(&self.shared).saturating_sub(1)
    }
}

impl Memories {
    /// The view of a plugin. A new fingerprint starts afresh, and takes the place of the plugin's other views that no
    /// stream uses any more (an Envoy that is still being drained keeps its own).
    ///
    /// # Errors
    /// When [`MAX_VIEWS`] are in use.
    pub fn open(&self, plugin: &str, fingerprint: u64, now: Millis) -> Result<Arc<Shared>, String> {
        let mut views = self.lock();
        let key = (plugin.to_owned(), fingerprint);
        if let Some(entry) = views.get_mut(&key) {
            entry.opened_at = now;
            return Ok(Arc::clone(&entry.shared));
        }
        views.retain(|(name, _), entry| name != plugin || entry.streams() > 0);
        if views.len() >= MAX_VIEWS {
            let idle = views.iter().filter(|(_, entry)| entry.streams() == 0);
            let oldest = idle.min_by_key(|(_, entry)| entry.opened_at).map(|(key, _)| key.clone());
            let oldest = oldest.ok_or_else(|| format!("{MAX_VIEWS} plugins are connected, expected at most that"))?;
            views.remove(&oldest);
        }
        let shared = Arc::new(Shared::default());
        views.insert(key, Entry { shared: Arc::clone(&shared), opened_at: now });
        drop(views);
        self.changed();
        Ok(shared)
    }

    /// The view of a plugin, if an Envoy has opened it.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Shared>> {
        self.lock().get(key).map(|entry| Arc::clone(&entry.shared))
    }

    /// Says that there may be a view that peers should be asked about.
    pub fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Tells when there may be one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Each view with the number of its streams.
    #[must_use]
    pub fn all(&self) -> Vec<(Key, Arc<Shared>, usize)> {
        let views = self.lock();
        views
            .iter()
            .map(|(key, entry)| {
                // Counted first: the clone handed out here is no stream.
                let streams = entry.streams();
                (key.clone(), Arc::clone(&entry.shared), streams)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmpath_core::journal::{Record, encode_slot};
    use warmpath_core::prefix::Boundary;
    use warmpath_core::table::{Endpoint, Table};
    use warmpath_core::units::{EndpointId, PrefixHash, RequestId};

    const ORIGIN: Origin = Origin(7);

    fn slot(number: u64, body: Body) -> Bytes {
        Bytes::from(encode_slot(&[Record { request: RequestId { origin: ORIGIN, number }, at: Millis(5), body }]))
    }

    fn route(number: u64) -> Bytes {
        let boundaries = vec![Boundary { end: 400, hash: PrefixHash(number) }];
        slot(number, Body::Route { endpoint: EndpointId(1), bytes: 400, stream: true, boundaries, late_ms: 0 })
    }

    fn published(version: u64) -> Published {
        let endpoints = vec![Endpoint { id: EndpointId(1), ..Endpoint::default() }];
        let table = Table { version, written_at: Millis(0), endpoints };
        Published { table, encoded: Bytes::new(), built_at: Millis(0), pods: Vec::new() }
    }

    fn memory() -> Memory {
        let mut memory = Memory::default();
        memory.sync(&published(1), Millis(1));
        memory
    }

    fn fold(memory: &mut Memory, origin: Origin, position: u64, slots: &[Bytes], now: u64) -> Folded {
        memory.fold(origin, position, slots, ClockOffset::default(), Millis(now)).0
    }

    #[test]
    fn what_was_folded_comes_back_as_warmth() {
        let mut memory = memory();
        let folded = fold(&mut memory, ORIGIN, 10, &[route(1), route(2)], 9);
        assert_eq!(folded, Folded { slots: 2, records: 2, ..Folded::default() });
        let refill = memory.refill(Origin(99));
        let records: Vec<Record> = refill.iter().flat_map(|slot| decode_slot(slot).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert!(records.iter().all(|r| matches!(r.body, Body::Warm { endpoint: EndpointId(1), .. })));
    }

    #[test]
    fn overlaps_are_skipped_and_gaps_counted() {
        let mut memory = memory();
        fold(&mut memory, ORIGIN, 10, &[route(1), route(2)], 9);
        let again = fold(&mut memory, ORIGIN, 11, &[route(2), route(3)], 9);
        assert_eq!((again.slots, again.repeated, again.lost), (1, 1, 0));
        let gap = fold(&mut memory, ORIGIN, 20, &[route(4)], 9);
        assert_eq!((gap.slots, gap.repeated, gap.lost), (1, 0, 7));
        let all_old = fold(&mut memory, ORIGIN, 10, &[route(1)], 9);
        assert_eq!((all_old.slots, all_old.repeated), (0, 1));
        assert_eq!(fold(&mut memory, ORIGIN, 21, &[route(5)], 9).lost, 0);
    }

    #[test]
    fn others_are_told_what_this_envoy_routed_and_nothing_else() {
        let mut memory = memory();
        let own = slot(1, Body::Void { failed: false });
        let request = |origin| RequestId { origin, number: 2 };
        let heard = Record { request: request(Origin(8)), at: Millis(5), body: Body::Void { failed: false } };
        let mine = Record { request: request(ORIGIN), ..heard.clone() };
        let mixed = Bytes::from(encode_slot(&[heard.clone(), mine.clone()]));
        let slots = [own.clone(), slot(0, Body::Table { version: 1 }), encode_slot(&[heard]).into(), mixed];
        let (folded, new) = memory.fold(ORIGIN, 0, &slots, ClockOffset::default(), Millis(9));
        assert_eq!(folded.records, 5);
        assert_eq!(new, [own, encode_slot(&[mine]).into()]);
    }

    #[test]
    fn moments_of_another_host_are_moved_to_this_ones_clock() {
        let mut memory = memory();
        let clock = ClockOffset::new(Millis(1_000), Millis(61_000));
        let (_, new) = memory.fold(ORIGIN, 0, &[slot(1, Body::Void { failed: false })], clock, Millis(61_000));
        assert_eq!(decode_slot(&new[0]).unwrap()[0].at, Millis(60_005));
    }

    #[test]
    fn the_newest_hello_tells_the_configuration() {
        let mut memory = memory();
        assert!(!memory.config_is_known() && memory.config() == &Config::default());
        memory.set_config(br#"{"path_prefix": "/llm"}"#).unwrap();
        assert_eq!((memory.config_is_known(), memory.config().path_prefix.as_str()), (true, "/llm"));
        // Of a later version, or an older one.
        for (json, wrong) in [(&br#"{"of_tomorrow": 1}"#[..], true), (b"", false)] {
            assert_eq!(memory.set_config(json).is_err(), wrong);
            assert!(!memory.config_is_known() && memory.config().path_prefix.is_empty());
        }
    }

    #[test]
    fn an_envoy_that_comes_back_goes_on_where_it_was_told() {
        let mut memory = memory();
        fold(&mut memory, ORIGIN, 0, &[route(1)], 9);
        assert_eq!(memory.take_told(ORIGIN), None);
        memory.set_told(ORIGIN, 17, Millis(9));
        fold(&mut memory, ORIGIN, 1, &[route(2)], 9);
        assert_eq!((memory.take_told(ORIGIN), memory.take_told(Origin(8))), (Some(17), None));
        assert_eq!(memory.take_told(ORIGIN), None, "another stream has it");
        // Two streams of one Envoy: the one that was further counts.
        memory.set_told(ORIGIN, 30, Millis(9));
        memory.set_told(ORIGIN, 20, Millis(9));
        assert_eq!(memory.take_told(ORIGIN), Some(30));
        // Also one that has routed nothing yet.
        memory.set_told(Origin(8), 3, Millis(9));
        assert_eq!(memory.take_told(Origin(8)), Some(3));
        assert_eq!(fold(&mut memory, Origin(8), 5, &[route(3)], 9).lost, 0);
    }

    #[test]
    fn a_ring_that_began_anew_is_believed() {
        let mut memory = memory();
        fold(&mut memory, ORIGIN, 1 << 40, &[route(1)], 9);
        assert_eq!(fold(&mut memory, ORIGIN, 0, &[route(2)], 9).slots, 1);
    }

    #[test]
    fn bad_slots_cost_only_themselves() {
        let mut memory = memory();
        let wanted = slot(0, Body::RefillWanted);
        let folded = fold(&mut memory, ORIGIN, 0, &[Bytes::from_static(b"\xffgarbage"), Bytes::new(), wanted], 9);
        assert_eq!((folded.bad, folded.records, folded.refill_wanted), (2, 1, true));
    }

    #[test]
    fn origins_are_bounded() {
        let mut memory = memory();
        for n in 0..500 {
            fold(&mut memory, Origin(n), 0, &[], n);
        }
        assert_eq!(memory.positions.len(), MAX_ORIGINS);
        assert!(memory.positions.contains_key(&Origin(499)));
    }

    #[test]
    fn another_fingerprint_starts_afresh_without_touching_the_one_in_use() {
        let memories = Memories::default();
        let old = memories.open("p", 1, Millis(1)).unwrap();
        old.lock().sync(&published(1), Millis(1));
        let new = memories.open("p", 2, Millis(2)).unwrap();
        assert_eq!((old.lock().view().table_version(), new.lock().view().table_version()), (1, 0));
        assert_eq!(memories.all().len(), 2);
        drop(old);
        memories.open("p", 3, Millis(3)).unwrap();
        assert_eq!(memories.all().iter().map(|(key, ..)| key.1).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn views_are_bounded_and_idle_ones_make_room() {
        let memories = Memories::default();
        let held: Vec<_> =
            (0..MAX_VIEWS).map(|n| memories.open(&format!("p{n}"), 0, Millis(n as u64)).unwrap()).collect();
        assert!(memories.open("one more", 0, Millis(99)).is_err());
        drop(held);
        memories.open("one more", 0, Millis(99)).unwrap();
        let names: Vec<String> = memories.all().into_iter().map(|((name, _), ..)| name).collect();
        assert_eq!(names.len(), MAX_VIEWS);
        assert!(!names.contains(&"p0".to_owned()));
    }
}
