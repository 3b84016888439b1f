//! What answers show of an endpoint's cache: what is really there, and what is not.

use super::{Index, NONE, Slot};
use crate::units::{Millis, PrefixHash};

/// Entries looked at to find when something was last used: the search is rare, but its length must be bounded.
const MOST_LOOKED_AT: u32 = 20_000;

impl Index {
    /// The prefill of the prompt that ends at `last` is over: the endpoint has all of it.
    pub fn ready(&mut self, slot: Slot, last: Option<PrefixHash>) {
        let mut id = self.node_of(slot, last);
        // Whoever has a boundary has all before it.
        while let Some(node) = self.nodes.get_mut(id as usize).filter(|n| !n.ready) {
            node.ready = true;
            id = node.parent;
        }
    }

    /// The end of the deepest boundary at or above a node that a finished prefill has computed.
    pub(super) fn ready_up_to(&self, mut id: u32) -> u32 {
        while let Some(node) = self.nodes.get(id as usize) {
            if node.ready {
                return node.end;
            }
            id = node.parent;
        }
        0
    }

    /// The prompt that ends at `last` was sent at `sent` and found only its first `found` bytes, though more were
    /// believed there, the deepest of it last used at `used`. The endpoint evicts what it has not used for longest, so
    /// with what is missing went all that was last used no later. Returns how many boundaries were forgotten.
    pub fn lost(&mut self, slot: Slot, last: Option<PrefixHash>, found: u32, used: Millis, sent: Millis) -> u64 {
        let mut id = self.node_of(slot, last);
        let mut missing = NONE;
        while let Some(node) = self.nodes.get(id as usize).filter(|n| n.end > found) {
            missing = id;
            id = node.parent;
        }
        let before = self.evicted;
        if missing != NONE {
            let stamp = self.last_use(slot, missing, sent).map_or(used, |other| other.max(used));
            self.forget_older(slot, stamp);
        }
        self.evicted - before
    }

    /// When a boundary or one that grew from it was last used before `sent`.
    fn last_use(&self, slot: Slot, node: u32, sent: Millis) -> Option<Millis> {
        let mut left = MOST_LOOKED_AT;
        let mut at = self.cache(slot.0)?.newest;
        while let Some(listed) = self.nodes.get(at as usize) {
            if listed.touched < sent {
                let mut up = at;
                while let Some(above) = self.nodes.get(up as usize) {
                    if up == node {
                        return Some(listed.touched);
                    }
                    left = left.saturating_sub(1);
                    up = above.parent;
                }
                if left == 0 {
                    return None;
                }
            }
            at = listed.older;
        }
        None
    }

    /// Forgets what the endpoint last used before `sent`; what is used since was computed anew. Returns how many
    /// boundaries.
    pub fn forget_before(&mut self, slot: Slot, sent: Millis) -> u64 {
        let before = self.evicted;
        if let Some(stamp) = sent.0.checked_sub(1) {
            self.forget_older(slot, Millis(stamp));
        }
        self.evicted - before
    }

    /// Forgets what the endpoint last used at `stamp` or before.
    fn forget_older(&mut self, slot: Slot, stamp: Millis) {
        while let Some(cache) = self.cache(slot.0) {
            match self.nodes.get(cache.oldest as usize) {
                Some(node) if node.touched <= stamp => self.evict_oldest(slot.0),
                _ => break,
            }
        }
    }
}
