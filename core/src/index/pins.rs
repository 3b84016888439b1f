//! Prompts of requests in flight: their blocks cannot be evicted.

use super::bound::Admission;
use super::{Index, Inserted, Slot};
use crate::prefix::Boundary;
use crate::units::{Millis, PrefixHash};

impl Index {
    /// As [`Index::insert`], for a request that is in flight from now on: its blocks cannot be evicted until
    /// [`Index::unpin`] of [`Inserted::last`]. Where all others are in flight as well and there is no place left, its
    /// deepest boundaries are not taken in.
    pub fn insert_pinned(&mut self, slot: Slot, boundaries: &[Boundary], now: Millis) -> Inserted {
        let mut inserted = self.add(slot, boundaries, now, Admission::ByWorth);
        self.pin(slot, inserted.last);
        self.shrink(slot.0);
        let beyond = u32::try_from(self.beyond_bound()).unwrap_or(u32::MAX).min(inserted.fresh);
        if beyond > 0 {
            self.release(slot, inserted.last);
            self.retract(slot, inserted.last, beyond);
            self.turned_away(beyond);
            inserted.fresh -= beyond;
            inserted.last = self.deepest(slot.0, boundaries).and_then(|(i, ..)| Some(boundaries.get(i)?.hash));
            self.pin(slot, inserted.last);
        }
        inserted
    }

    fn pin(&mut self, slot: Slot, last: Option<PrefixHash>) {
        let mut id = self.node_of(slot, last);
        // Only the first pin of a boundary reaches its parent, so what is shared with pinned prompts costs nothing.
        while let Some(node) = self.nodes.get_mut(id as usize) {
            node.pins += 1;
            if node.pins > 1 {
                return;
            }
            let node = *node;
            let size = self.size(&node);
            if let Some(cache) = self.cache_mut(slot.0) {
                cache.pinned += size;
            }
            id = node.parent;
        }
    }

    /// The request that was inserted pinned, with `last` as its deepest boundary, is over. vLLM frees its blocks now, so
    /// it was used now.
    pub fn unpin(&mut self, slot: Slot, last: Option<PrefixHash>, now: Millis) {
        if self.release(slot, last) {
            let leaf = self.node_of(slot, last);
            self.touch(slot.0, leaf, now);
            self.shrink(slot.0);
        }
    }

    /// Takes one pin from a boundary, and from those before it what that pin gave them. Returns whether it had one.
    fn release(&mut self, slot: Slot, last: Option<PrefixHash>) -> bool {
        let mut id = self.node_of(slot, last);
        if self.nodes.get(id as usize).is_none_or(|n| n.pins == 0) {
            return false;
        }
        while let Some(node) = self.nodes.get_mut(id as usize) {
            node.pins = node.pins.saturating_sub(1);
            if node.pins > 0 {
                break;
            }
            let node = *node;
            let size = self.size(&node);
            if let Some(cache) = self.cache_mut(slot.0) {
                cache.pinned = cache.pinned.saturating_sub(size);
            }
            id = node.parent;
        }
        true
    }

    /// Bytes that the requests in flight there hold, what they share counted once.
    #[must_use]
    pub fn pinned(&self, slot: Slot) -> u64 {
        self.cache(slot.0).map_or(0, |c| c.pinned)
    }
}
