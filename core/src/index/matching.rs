//! What endpoints hold of a prompt.
//!
//! Whoever has a boundary has all before it, so the shallower a boundary, the more hold it, and each endpoint's deepest is
//! found by bisection. Agents' prompts have hundreds of boundaries, most of them held by one endpoint, and looking each
//! of them up costs a cache miss or two. Only where that order may be broken (see [`Index::new`]) all are looked at, for good.

use super::{Holders, Index, Slot};
use crate::prefix::Boundary;

/// What an endpoint holds of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Bytes from its beginning.
    pub bytes: u32,
    /// Where that ends; for [`Index::sharing`].
    node: u32,
}

impl Match {
    /// It, if it is not of more bytes than the prompt has.
    pub(crate) fn at_most(self, bytes: u32) -> Self {
        Self { bytes: self.bytes.min(bytes), ..self }
    }
}

impl Index {
    /// For each slot, what its endpoint holds of the prompt. `out` is resized to the slots.
    pub fn matches(&self, boundaries: &[Boundary], out: &mut Vec<Match>) {
        out.clear();
        out.resize(self.caches.len(), Match::default());
        let (mut found, mut left) = (0, boundaries);
        while found < self.filled
            && let Some((deepest, before)) = self.held_by_more(left, if self.gaps { 0 } else { found })
        {
            for (slot, node) in self.holders_of(deepest) {
                if let Some(of) = out.get_mut(*slot as usize)
                    && of.bytes == 0
                {
                    *of = Match { bytes: deepest.end, node: *node };
                    found += 1;
                }
            }
            left = before;
        }
    }

    /// Prompts in flight that end where a match ends or go on differently from there: many where a beginning ends that is
    /// in demand now, none or one where a conversation goes on.
    #[must_use]
    pub fn sharing(&self, of: Match) -> u32 {
        self.nodes.get(of.node as usize).filter(|_| of.bytes > 0).map_or(0, |n| n.pins)
    }

    /// How many bytes of the prompt one endpoint holds.
    #[must_use]
    pub fn matched(&self, slot: Slot, boundaries: &[Boundary]) -> u32 {
        self.deepest(slot.0, boundaries).map_or(0, |(_, _, end)| end)
    }

    pub(super) fn deepest(&self, slot: u32, boundaries: &[Boundary]) -> Option<(usize, u32, u32)> {
        boundaries
            .iter()
            .enumerate()
            .rev()
            .find_map(|(i, b)| Some((i, self.holders.get(&b.hash)?.node_of(slot)?, b.end)))
    }

    fn holders_of(&self, boundary: &Boundary) -> &[(u32, u32)] {
        self.holders.get(&boundary.hash).map_or(&[], Holders::as_slice)
    }

    /// The deepest boundary that more than `many` endpoints hold, and those before it. From the end in growing steps
    /// first: a conversation that goes on has few new boundaries.
    fn held_by_more<'b>(&self, boundaries: &'b [Boundary], many: usize) -> Option<(&'b Boundary, &'b [Boundary])> {
        let is_held = |b: &Boundary| self.holders_of(b).len() > many;
        if self.gaps {
            return boundaries.get(..=boundaries.iter().rposition(is_held)?)?.split_last();
        }
        let (mut known_not, mut step) = (boundaries.len(), 1);
        let held = loop {
            let at = known_not.checked_sub(1)?.saturating_sub(step - 1);
            if boundaries.get(at).is_some_and(is_held) {
                break at;
            }
            (known_not, step) = (at, step * 2);
        };
        let between = boundaries.get(held..known_not)?;
        boundaries.get(..held + between.partition_point(is_held))?.split_last()
    }
}
