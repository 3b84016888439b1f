//! Which endpoint holds which prefix, forgotten when the pod would have forgotten it.
//!
//! Each endpoint has a tree of boundaries (a boundary's parent is the one before it in the prompt). vLLM evicts the
//! least recently used block and, within one request, the deepest first; as a request that uses a boundary uses all its
//! ancestors too, that is the same as: **evict the least recently used leaf**. So using a prompt moves one leaf in one
//! list, whatever its depth, and folding a warm request costs its new boundaries only.
//!
//! Sizes are canonical prompt bytes; the caller turns the pod's tokens into bytes. One map serves all endpoints: a
//! boundary's holders are found with one probe. How many boundaries there may be in all, and which are not worth their
//! place then: `bound`.

mod bound;
mod holders;
mod matching;
mod pins;
mod recency;
mod truth;

pub use holders::HashedMap;
pub use matching::Match;

use crate::prefix::Boundary;
use crate::units::{EndpointId, Millis, PrefixHash, mix};
use bound::{Admission, Bound};
use holders::Holders;

/// An endpoint's place in the index and in the view's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    hash: PrefixHash,
    touched: Millis,
    slot: u32,
    end: u32,
    parent: u32,
    children: u32,
    /// Requests in flight that end here, and children with pins.
    pins: u32,
    older: u32,
    newer: u32,
    listed: bool,
    /// A prefill that computed it is known to be over.
    ready: bool,
}

/// An endpoint's cache. Sizes in bytes of prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cache {
    id: EndpointId,
    used: u64,
    /// What the requests in flight there hold, what they share counted once.
    pub(crate) pinned: u64,
    capacity: u64,
    /// 1 / capacity.
    share_of_byte: f64,
    entries: u64,
    oldest: u32,
    /// When that was used: here as well, as a decision asks it of every endpoint.
    oldest_use: Millis,
    newest: u32,
}

/// Of a cache without room, so much that none is left.
fn share_of_byte(capacity: u64) -> f64 {
    if capacity > 0 { 1.0 / capacity as f64 } else { f64::INFINITY }
}

impl Cache {
    /// Share of it that nothing is believed to be in, 0 to 1.
    pub(crate) fn room(&self) -> f64 {
        (1.0 - self.used as f64 * self.share_of_byte).max(0.0)
    }

    /// When the oldest entry was used, once the cache is full: its age is how long an entry lives. `None` while it is not.
    pub(crate) fn oldest_use(&self) -> Option<Millis> {
        let is_full = self.used + (self.used >> 6) >= self.capacity;
        (is_full && self.oldest != NONE).then_some(self.oldest_use)
    }
}

/// What an insert found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Boundaries that are new there.
    pub fresh: u32,
    /// Bytes that the endpoint held before.
    pub matched: u32,
    /// Bytes of these that a finished prefill has computed: the others are on their way.
    pub ready: u32,
    /// When the deepest of these was used last.
    pub used: Millis,
    /// The deepest boundary of the prompt that is held now, if there is one: not always its last, see [`Index::new`].
    pub last: Option<PrefixHash>,
}

/// What of a prompt a [`Chain`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// It starts at a boundary of a chain before it, and not at the prompt's beginning: nothing is told twice.
    pub continues: bool,
    /// Boundaries of the prompt may have been left out.
    pub gaps: bool,
}

/// A prompt that an endpoint holds, or the part of one that was not told of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// When it was used last.
    pub used: Millis,
    /// What of a prompt it is.
    pub extent: Extent,
    /// Its boundaries.
    pub boundaries: Vec<Boundary>,
}

/// The index. See the module's text.
#[derive(Debug)]
pub struct Index {
    holders: HashedMap<PrefixHash, Holders>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    caches: Vec<Option<Cache>>,
    bound: Bound,
    /// Whether an endpoint may hold a boundary without all of the prompt's boundaries before it. Once true it stays: one
    /// that was left out is not told of by what is held.
    gaps: bool,
    /// Caches with something in them.
    filled: usize,
    evicted: u64,
    digest: u64,
}

impl Index {
    /// An empty index that holds at most `max_entries` boundaries in all (about 100 bytes each). From half of that on,
    /// boundaries that are near to the one before them are left out of what is inserted.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self {
            holders: HashedMap::default(),
            nodes: Vec::new(),
            free: Vec::new(),
            caches: Vec::new(),
            bound: Bound::new(max_entries),
            gaps: false,
            filled: 0,
            evicted: 0,
            digest: 0,
        }
    }

    /// Makes room for an endpoint in `slot` with a cache of `capacity` bytes, empty.
    pub fn add_endpoint(&mut self, slot: Slot, id: EndpointId, capacity: u64) {
        let at = slot.0 as usize;
        if self.caches.len() <= at {
            self.caches.resize(at + 1, None);
        }
        self.clear(slot);
        if let Some(cache) = self.caches.get_mut(at) {
            self.bound.endpoints += u64::from(cache.is_none());
            let share_of_byte = share_of_byte(capacity);
            *cache = Some(Cache {
                id,
                used: 0,
                pinned: 0,
                capacity,
                share_of_byte,
                entries: 0,
                oldest: NONE,
                oldest_use: Millis(0),
                newest: NONE,
            });
        }
    }

    /// Forgets an endpoint and all that it held.
    pub fn remove_endpoint(&mut self, slot: Slot) {
        self.clear(slot);
        if self.caches.get_mut(slot.0 as usize).and_then(Option::take).is_some() {
            self.bound.endpoints -= 1;
        }
    }

    /// Sets an endpoint's cache size in bytes, evicting what no longer fits.
    pub fn set_capacity(&mut self, slot: Slot, capacity: u64) {
        if let Some(cache) = self.cache_mut(slot.0) {
            (cache.capacity, cache.share_of_byte) = (capacity, share_of_byte(capacity));
        }
        self.shrink(slot.0);
    }

    /// The endpoint in `slot` used or will use this prompt: it holds all of it now, and last evicts it.
    pub fn insert(&mut self, slot: Slot, boundaries: &[Boundary], now: Millis) -> Inserted {
        let inserted = self.add(slot, boundaries, now, Admission::ByWorth);
        self.shrink(slot.0);
        inserted
    }

    /// As [`Index::insert`], of a [`Chain`] that another index held: all of it comes, as it was found worth keeping there.
    /// One that `continues` what is not held here, or no longer, is of no use to anybody and does not.
    pub fn restore(&mut self, slot: Slot, boundaries: &[Boundary], extent: Extent, now: Millis) -> Inserted {
        self.gaps |= extent.gaps;
        let admission = if extent.continues { Admission::Continuation } else { Admission::All };
        let inserted = self.add(slot, boundaries, now, admission);
        self.shrink(slot.0);
        inserted
    }

    fn add(&mut self, slot: Slot, boundaries: &[Boundary], now: Millis, admission: Admission) -> Inserted {
        let mut inserted = Inserted::default();
        if self.cache_mut(slot.0).is_none() {
            return inserted;
        }
        let (mut next, mut parent, mut end) = (0, NONE, 0);
        if let Some((i, node, node_end)) = self.deepest(slot.0, boundaries) {
            (next, parent, end) = (i + 1, node, node_end);
            (inserted.matched, inserted.ready) = (node_end, self.ready_up_to(node));
            if let Some(node) = self.nodes.get(node as usize) {
                (inserted.used, inserted.last) = (node.touched, Some(node.hash));
            }
        } else if admission == Admission::Continuation {
            return inserted;
        }
        for boundary in boundaries.get(next..).unwrap_or_default() {
            let nothing_new = boundary.end <= end && end > 0;
            if nothing_new || admission == Admission::ByWorth && !self.is_worth_a_place(slot.0, boundary.end - end) {
                self.gaps = true;
                continue;
            }
            parent = self.grow(slot.0, *boundary, parent, end);
            (end, inserted.last) = (boundary.end, Some(boundary.hash));
            inserted.fresh += 1;
        }
        if parent != NONE {
            self.touch(slot.0, parent, now);
        }
        inserted
    }

    /// The node of an [`Inserted::last`]; [`NONE`] where nothing was taken in, or it is gone.
    fn node_of(&self, slot: Slot, last: Option<PrefixHash>) -> u32 {
        last.and_then(|hash| self.holders.get(&hash)?.node_of(slot.0)).unwrap_or(NONE)
    }

    fn size(&self, node: &Node) -> u64 {
        let before = self.nodes.get(node.parent as usize).map_or(0, |p| p.end);
        u64::from(node.end.saturating_sub(before))
    }

    /// Takes an insert back: the prompt whose deepest boundary there is `last` never got there, so its `fresh` boundaries
    /// go, as far as no other prompt has grown from them or is in flight with them since.
    pub fn retract(&mut self, slot: Slot, last: Option<PrefixHash>, fresh: u32) {
        let mut id = self.node_of(slot, last);
        for _ in 0..fresh {
            let Some(node) = self.nodes.get(id as usize).copied() else { return };
            if node.children > 0 || node.pins > 0 {
                return;
            }
            self.unlist(slot.0, id);
            self.drop_leaf(slot.0, id, &node);
            id = node.parent;
        }
    }

    /// Bytes of prompt that the endpoint is believed to hold.
    #[must_use]
    pub fn used(&self, slot: Slot) -> u64 {
        self.cache(slot.0).map_or(0, |c| c.used)
    }

    /// Boundaries held in all.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Boundaries evicted so far.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Equal for indexes that hold the same, in whatever order it came.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// What the endpoint holds, least recently used first, for [`Index::restore`].
    #[must_use]
    pub fn chains(&self, slot: Slot) -> Vec<Chain> {
        let mut chains = Vec::new();
        let mut told: HashedMap<PrefixHash, ()> = HashedMap::default();
        let mut at = self.cache(slot.0).map_or(NONE, |c| c.oldest);
        let mut listed = Vec::new();
        while let Some(leaf) = self.nodes.get(at as usize) {
            listed.push(leaf);
            at = leaf.newer;
        }
        // In use for so long that they would have been evicted: the most recent of all.
        let in_use = self.nodes.iter().filter(|n| n.slot == slot.0 && n.pins > 0 && n.children == 0 && !n.listed);
        for leaf in listed.into_iter().chain(in_use) {
            let mut extent = Extent { continues: false, gaps: self.gaps };
            let mut boundaries = Vec::new();
            let mut up = Some(leaf);
            while let Some(node) = up.filter(|_| !extent.continues) {
                boundaries.push(Boundary { hash: node.hash, end: node.end });
                extent.continues = told.insert(node.hash, ()).is_some();
                up = self.nodes.get(node.parent as usize);
            }
            boundaries.reverse();
            chains.push(Chain { used: leaf.touched, extent, boundaries });
        }
        chains
    }

    /// The cache of the endpoint in a slot.
    pub(crate) fn cache(&self, slot: u32) -> Option<&Cache> {
        self.caches.get(slot as usize)?.as_ref()
    }

    fn cache_mut(&mut self, slot: u32) -> Option<&mut Cache> {
        self.caches.get_mut(slot as usize)?.as_mut()
    }

    fn grow(&mut self, slot: u32, boundary: Boundary, parent: u32, parent_end: u32) -> u32 {
        let node = Node {
            hash: boundary.hash,
            touched: Millis(0),
            slot,
            end: boundary.end,
            parent,
            children: 0,
            pins: 0,
            older: NONE,
            newer: NONE,
            listed: false,
            ready: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.nodes.get_mut(id as usize) {
                    *place = node;
                }
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        match self.holders.get_mut(&boundary.hash) {
            Some(holders) => holders.add(slot, id),
            None => {
                self.holders.insert(boundary.hash, Holders::One((slot, id)));
            }
        }
        if let Some(p) = self.nodes.get_mut(parent as usize) {
            p.children += 1;
        }
        if let Some(cache) = self.cache_mut(slot) {
            cache.used += u64::from(boundary.end.saturating_sub(parent_end));
            cache.entries += 1;
            let (id, first) = (cache.id, cache.entries == 1);
            self.filled += usize::from(first);
            self.digest ^= mix(boundary.hash.0, id.0);
        }
        id
    }

    fn forget(&mut self, id: u32, node: &Node) {
        if self.holders.get_mut(&node.hash).is_some_and(|h| h.remove(node.slot)) {
            self.holders.remove(&node.hash);
        }
        let size = self.size(node);
        if let Some(cache) = self.cache_mut(node.slot) {
            cache.used = cache.used.saturating_sub(size);
            cache.entries = cache.entries.saturating_sub(1);
            let (id, last) = (cache.id, cache.entries == 0);
            self.filled = self.filled.saturating_sub(usize::from(last));
            self.digest ^= mix(node.hash.0, id.0);
        }
        if let Some(gone) = self.nodes.get_mut(id as usize) {
            gone.slot = NONE;
        }
        self.free.push(id);
    }

    /// Forgets all, in use or not: the cache itself is gone.
    fn clear(&mut self, slot: Slot) {
        if self.cache(slot.0).is_none_or(|c| c.entries == 0) {
            return;
        }
        for id in 0..self.nodes.len() {
            if let Some(node) = self.nodes.get(id).copied().filter(|n| n.slot == slot.0) {
                self.forget(id as u32, &node);
            }
        }
        if let Some(cache) = self.cache_mut(slot.0) {
            *cache = Cache { used: 0, pinned: 0, oldest: NONE, newest: NONE, ..*cache };
        }
    }
}

#[cfg(test)]
mod tests;
