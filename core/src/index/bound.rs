//! The index's own bound, and why nobody can buy all of it with small pieces.
//!
//! What a full cache evicts is gone in the pod as well. What goes because the **index** is full is a loss: the pod still
//! has it. A client that sends many tiny messages must not bring that about, so a place in the index has a price. Half of
//! the places are free. While they are taken, a boundary is kept only if it stands for at least
//!
//! ```text
//! gap(e) = capacity(e) x endpoints / (max_entries / 2)   bytes since the boundary before it, at most MOST_GAP
//! ```
//!
//! At most half of `max_entries` came in while half was free. The others are at most capacity(e) / gap(e) at each
//! endpoint, together `max_entries / 2`. So while no gap is at its most, **nothing goes before its pod evicts it**, and all
//! that a client can take from others' matches is `gap` bytes each. Beyond (more cache than `max_entries x MOST_GAP / 2`)
//! the endpoint with the most boundaries gives its least recently used ones. (Where `capacity` or `endpoints` have grown,
//! what came in at the lower price before goes only by and by. A boundary left out at first and taken in later, when
//! places are free, lies beside the one that skipped it: what is between counts twice, never more often.)
//!
//! Half, so that in quiet times all boundaries are kept; by endpoint, so that one that says its cache is huge spoils its own
//! places only. It depends on nothing but what is held: equal records give equal decisions in all views.

use super::{Index, NONE};

/// The highest price of a place, in bytes: 128 tokens, hundredths of a second of prefill. With more, short prompts would
/// not be remembered at all in large fleets.
pub(super) const MOST_GAP: u64 = 512;
/// So many boundaries go at once where the bound is reached: finding the endpoint with the most costs a look at each.
const MOST_AT_ONCE: usize = 64;

/// What an insert takes in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// What is worth its place.
    ByWorth,
    /// All.
    All,
    /// All, if some of it is held already.
    Continuation,
}

/// How many boundaries there may be, and how many that has cost.
#[derive(Debug)]
pub(super) struct Bound {
    max_entries: usize,
    pub(super) endpoints: u64,
    crowded_out: u64,
}

impl Bound {
    pub(super) fn new(max_entries: usize) -> Self {
        Self { max_entries: max_entries.max(1), endpoints: 0, crowded_out: 0 }
    }

    fn half(&self) -> usize {
        self.max_entries.div_ceil(2)
    }
}

impl Index {
    /// Boundaries that went, or were not taken in, because there were too many in all, though the pods had them.
    #[must_use]
    pub fn crowded_out(&self) -> u64 {
        self.bound.crowded_out
    }

    /// Whether a boundary `bytes` behind the one before it is taken in.
    pub(super) fn is_worth_a_place(&self, slot: u32, bytes: u32) -> bool {
        self.entries() < self.bound.half() || u64::from(bytes) >= self.gap(slot)
    }

    fn gap(&self, slot: u32) -> u64 {
        let capacity = self.cache(slot).map_or(0, |c| c.capacity);
        let places = (self.bound.max_entries - self.bound.half()).max(1) as u64;
        capacity.saturating_mul(self.bound.endpoints).div_ceil(places).min(MOST_GAP)
    }

    /// Boundaries above the bound.
    pub(super) fn beyond_bound(&self) -> usize {
        self.entries().saturating_sub(self.bound.max_entries)
    }

    /// `boundaries` found no place, as all others are in use.
    pub(super) fn turned_away(&mut self, boundaries: u32) {
        self.bound.crowded_out += u64::from(boundaries);
    }

    #[inline]
    pub(super) fn keep_bound(&mut self) {
        if self.beyond_bound() > 0 {
            self.crowd_out();
        }
    }

    #[cold]
    fn crowd_out(&mut self) {
        let before = self.evicted;
        let goal = self.bound.max_entries - (self.bound.max_entries >> 10).min(MOST_AT_ONCE);
        while self.beyond_bound() > 0 {
            // By its identity where they have equally many: slots may differ between views.
            let most = (0..).zip(&self.caches).filter_map(|(slot, cache)| {
                let cache = cache.as_ref().filter(|c| c.oldest != NONE)?;
                Some((cache.entries, cache.id, slot))
            });
            let Some((_, _, slot)) = most.max() else { break };
            while self.entries() > goal && self.cache(slot).is_some_and(|c| c.oldest != NONE) {
                self.evict_oldest(slot);
            }
        }
        self.bound.crowded_out += self.evicted - before;
    }
}

#[cfg(test)]
mod tests;
