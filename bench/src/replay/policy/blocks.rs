//! What a router remembers to have sent where: a set of blocks for each pod that forgets the least recently used.
//!
//! A block of fixed size is known by its place and the segment that holds its last token. All blocks that end in a
//! segment are always used together, in the same order, so a set keeps one run of blocks for each segment: exactly
//! the set that keeps each block by itself. Tokens past the last segment are no block: nobody else has them.

use crate::replay::cache::IntMap;
use crate::replay::workload::Prompt;

const NONE: u32 = u32::MAX;

/// The blocks of a prompt, `size` tokens each, as (segment, how many end in it), at most `most` in all.
pub fn runs(prompt: &Prompt, size: u32, most: u32) -> impl DoubleEndedIterator<Item = (u32, u32)> + '_ {
    let total: u32 = prompt.segments.iter().map(|s| s.tokens).sum();
    let count = prompt.segments.len();
    // From both ends: what is before from the front, what is up to and with from the back.
    Runs { prompt, size, most, front: 0, back: count, before: 0, upto: total }
}

struct Runs<'a> {
    prompt: &'a Prompt,
    size: u32,
    most: u32,
    front: usize,
    back: usize,
    before: u32,
    upto: u32,
}

impl Runs<'_> {
    fn blocks(&self, start: u32, end: u32) -> u32 {
        (end / self.size).min(self.most) - (start / self.size).min(self.most)
    }
}

impl Iterator for Runs<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        if self.front == self.back {
            return None;
        }
        let segment = self.prompt.segments[self.front];
        let start = self.before;
        self.front += 1;
        self.before += segment.tokens;
        Some((segment.id, self.blocks(start, self.before)))
    }
}

impl DoubleEndedIterator for Runs<'_> {
    fn next_back(&mut self) -> Option<(u32, u32)> {
        if self.front == self.back {
            return None;
        }
        self.back -= 1;
        let segment = self.prompt.segments[self.back];
        let end = self.upto;
        self.upto -= segment.tokens;
        Some((segment.id, self.blocks(self.upto, end)))
    }
}

#[derive(Clone, Copy)]
struct Run {
    blocks: u32,
    /// Of these, forgotten: the first ones if blocks are used in their order, the last ones if used deepest first.
    gone: u32,
    older: u32,
    newer: u32,
}

/// One pod's blocks.
pub struct Lru {
    capacity: u64,
    held: u64,
    runs: IntMap<Run>,
    oldest: u32,
    newest: u32,
}

impl Lru {
    /// An empty set of at most so many blocks.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, held: 0, runs: IntMap::default(), oldest: NONE, newest: NONE }
    }

    /// How many blocks there are room for.
    pub fn room(&self) -> u64 {
        self.capacity - self.held
    }

    /// How many blocks of a segment's run are held.
    pub fn holds(&self, segment: u32) -> u32 {
        self.runs.get(&segment).map_or(0, |r| r.blocks - r.gone)
    }

    /// Uses all blocks of a segment's run.
    pub fn touch(&mut self, segment: u32, blocks: u32) {
        if blocks == 0 {
            return;
        }
        let fresh = Run { blocks, gone: blocks, older: NONE, newer: NONE };
        let run = *self.runs.entry(segment).or_insert(fresh);
        if run.gone < run.blocks {
            self.unlist(run);
        }
        self.held += u64::from(run.gone);
        let listed = Run { blocks: run.blocks, gone: 0, older: self.newest, newer: NONE };
        self.runs.insert(segment, listed);
        match self.newest {
            NONE => self.oldest = segment,
            newest => self.link(newest, |r| r.newer = segment),
        }
        self.newest = segment;
        while self.held > self.capacity {
            self.evict();
        }
    }

    /// What would go next, as (segment, blocks held).
    pub fn oldest(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let run = self.runs.get(&at)?;
            let found = (at, run.blocks - run.gone);
            at = run.newer;
            Some(found)
        })
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    fn evict(&mut self) {
        let over = u32::try_from(self.held - self.capacity).unwrap_or(u32::MAX);
        let Some(run) = self.runs.get_mut(&self.oldest) else { return };
        let gone = over.min(run.blocks - run.gone);
        run.gone += gone;
        self.held -= u64::from(gone);
        let (run, id) = (*run, self.oldest);
        if run.gone == run.blocks {
            self.unlist(run);
            self.runs.remove(&id);
        }
    }

    fn link(&mut self, id: u32, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.runs.get_mut(&id) {
            change(run);
        }
    }

    fn unlist(&mut self, run: Run) {
        match run.older {
            NONE => self.oldest = run.newer,
            older => self.link(older, |r| r.newer = run.newer),
        }
        match run.newer {
            NONE => self.newest = run.older,
            newer => self.link(newer, |r| r.older = run.older),
        }
    }
}

/// What each pod is believed to hold as an engine would: deepest blocks first to go. Blocks of [`BLOCK`] tokens.
///
/// [`BLOCK`]: crate::replay::workload::BLOCK
pub struct Prefixes(Vec<Lru>);

impl Prefixes {
    /// Nothing, in pods of so many tokens.
    pub fn new(pods: usize, capacity: u64) -> Self {
        let size = u64::from(crate::replay::workload::BLOCK);
        Self((0..pods).map(|_| Lru::new(capacity / size)).collect())
    }

    /// One pod's.
    pub fn pod(&self, pod: usize) -> &Lru {
        &self.0[pod]
    }

    /// Tokens of a prompt that a pod holds, from its beginning.
    pub fn matched(&self, pod: usize, prompt: &Prompt) -> u32 {
        let mut blocks = 0;
        for (segment, run) in runs(prompt, crate::replay::workload::BLOCK, u32::MAX) {
            let held = self.0[pod].holds(segment);
            blocks += held;
            if held < run {
                break;
            }
        }
        blocks * crate::replay::workload::BLOCK
    }

    /// A pod gets a prompt.
    pub fn add(&mut self, pod: usize, prompt: &Prompt) {
        for (segment, run) in runs(prompt, crate::replay::workload::BLOCK, u32::MAX).rev() {
            self.0[pod].touch(segment, run);
        }
    }

    /// A pod lost all.
    pub fn forget(&mut self, pod: usize) {
        self.0[pod].clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::prompt;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_block_belongs_to_the_segment_of_its_last_token() {
        // Ends at 48, 128, 144 and 320; tokens 304.. are no whole block.
        let p = prompt(&[(5, 48), (6, 80), (7, 16), (8, 176)], 100);
        let all = [(5, 0), (6, 2), (7, 0), (8, 3)];
        assert_eq!(runs(&p, 64, 99).collect::<Vec<_>>(), all);
        assert_eq!(runs(&p, 64, 99).rev().collect::<Vec<_>>(), [all[3], all[2], all[1], all[0]]);
        assert_eq!(runs(&p, 64, 3).map(|r| r.1).collect::<Vec<_>>(), [0, 2, 0, 1]);
    }

    proptest! {
        #[test]
        fn runs_are_forgotten_block_by_block(
            uses in vec(vec(0..6_u32, 1..4), 1..50), capacity in 4..20_u64, deep: bool
        ) {
            let mut lru = Lru::new(capacity);
            let mut naive: Vec<(u32, u32)> = Vec::new();
            for prompt in uses {
                for id in prompt {
                    let blocks = 1 + id % 4;
                    lru.touch(id, blocks);
                    let order: Vec<u32> = if deep { (0..blocks).rev().collect() } else { (0..blocks).collect() };
                    naive.retain(|b| b.0 != id);
                    naive.extend(order.iter().map(|k| (id, *k)));
                    naive.drain(..naive.len().saturating_sub(capacity as usize));
                }
                for id in 0..6 {
                    prop_assert_eq!(lru.holds(id) as usize, naive.iter().filter(|b| b.0 == id).count());
                }
                prop_assert_eq!(lru.room(), capacity - naive.len() as u64);
                let oldest: Vec<u32> = lru.oldest().flat_map(|(id, n)| (0..n).map(move |_| id)).collect();
                prop_assert_eq!(oldest, naive.iter().map(|b| b.0).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_deepest_of_the_oldest_prompt_goes_first() {
        let mut prefixes = Prefixes::new(1, 10 * 16);
        let (a, b) = (prompt(&[(1, 64), (2, 64)], 0), prompt(&[(1, 64), (3, 64)], 0));
        prefixes.add(0, &a);
        prefixes.add(0, &b);
        assert_eq!((prefixes.matched(0, &a), prefixes.matched(0, &b)), (64 + 32, 128));
        prefixes.forget(0);
        assert_eq!(prefixes.matched(0, &b), 0);
    }
}
