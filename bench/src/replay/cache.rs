//! The prefix cache of one simulated pod, by segments instead of blocks.
//!
//! vLLM frees a request's blocks deepest first and evicts the block freed longest ago. Whoever uses a block uses all
//! before it, so a segment's blocks are always freed together, its last one first: a list of segments by the time of
//! their release, of which the oldest loses blocks from its end, evicts block for block what vLLM would.

use super::workload::{BLOCK, Segment};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const NONE: u32 = u32::MAX;

/// Segment ids are dense: a multiplication spreads them well enough.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }
    fn write_u32(&mut self, v: u32) {
        self.0 = (self.0 ^ u64::from(v)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A map by small integers.
pub type IntMap<V> = HashMap<u32, V, BuildHasherDefault<Spread>>;

#[derive(Clone, Copy)]
struct Entry {
    resident: u32,
    references: u32,
    older: u32,
    newer: u32,
}

/// See the module's text. All sizes are tokens.
#[derive(Default)]
pub struct Cache {
    entries: IntMap<Entry>,
    /// Least and most recently released of those that nobody references.
    oldest: Option<u32>,
    newest: Option<u32>,
    resident: u64,
    evictable: u64,
}

impl Cache {
    /// Tokens held, referenced or not.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    /// Tokens held that nobody references.
    pub fn evictable(&self) -> u64 {
        self.evictable
    }

    /// Tokens of a prompt that are held, from its beginning.
    pub fn hit(&self, segments: &[Segment]) -> u64 {
        let mut hit = 0;
        for s in segments {
            let resident = self.entries.get(&s.id).map_or(0, |e| e.resident);
            hit += u64::from(resident);
            if resident < s.tokens {
                break;
            }
        }
        hit
    }

    /// Takes a reference on a segment, so that it stays.
    pub fn reference(&mut self, id: u32) {
        let fresh = Entry { resident: 0, references: 0, older: NONE, newer: NONE };
        let entry = self.entries.entry(id).or_insert(fresh);
        entry.references += 1;
        let entry = *entry;
        if entry.references == 1 && entry.resident > 0 {
            self.unlist(entry);
            self.evictable -= u64::from(entry.resident);
        }
    }

    /// A referenced segment is computed up to `tokens`. Returns how many of these are new.
    pub fn grow(&mut self, id: u32, tokens: u32) -> u64 {
        let Some(entry) = self.entries.get_mut(&id) else { return 0 };
        let new = tokens.saturating_sub(entry.resident);
        entry.resident += new;
        self.resident += u64::from(new);
        u64::from(new)
    }

    /// Gives references back, deepest first.
    pub fn release(&mut self, segments: &[Segment]) {
        for s in segments.iter().rev() {
            let Some(entry) = self.entries.get_mut(&s.id) else { continue };
            entry.references -= 1;
            if entry.references > 0 {
                continue;
            }
            if entry.resident == 0 {
                self.entries.remove(&s.id);
                continue;
            }
            self.evictable += u64::from(entry.resident);
            entry.older = self.newest.unwrap_or(NONE);
            entry.newer = NONE;
            match self.newest.replace(s.id) {
                Some(newest) => self.link(newest, |e| e.newer = s.id),
                None => self.oldest = Some(s.id),
            }
        }
    }

    /// Evicts at least `tokens`, as far as there is something to evict.
    pub fn evict(&mut self, mut tokens: u64) {
        while tokens > 0
            && let Some(id) = self.oldest
            && let Some(entry) = self.entries.get_mut(&id)
        {
            let wanted = u32::try_from(tokens).unwrap_or(u32::MAX - BLOCK).next_multiple_of(BLOCK);
            let gone = wanted.min(entry.resident);
            entry.resident -= gone;
            let entry = *entry;
            self.resident -= u64::from(gone);
            self.evictable -= u64::from(gone);
            tokens = tokens.saturating_sub(u64::from(gone));
            if entry.resident == 0 {
                self.unlist(entry);
                self.entries.remove(&id);
            }
        }
    }

    /// Forgets all content; references stay.
    pub fn forget(&mut self) {
        self.entries.retain(|_, e| {
            e.resident = 0;
            e.references > 0
        });
        (self.oldest, self.newest, self.resident, self.evictable) = (None, None, 0, 0);
    }

    fn link(&mut self, id: u32, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&id) {
            change(entry);
        }
    }

    fn unlist(&mut self, entry: Entry) {
        match entry.older {
            NONE => self.oldest = (entry.newer != NONE).then_some(entry.newer),
            older => self.link(older, |e| e.newer = entry.newer),
        }
        match entry.newer {
            NONE => self.newest = (entry.older != NONE).then_some(entry.older),
            newer => self.link(newer, |e| e.older = entry.older),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// vLLM's rule, block by block.
    #[derive(Default)]
    struct Naive(Vec<(u32, u32)>);

    impl Naive {
        fn hit(&self, segments: &[Segment]) -> u64 {
            let blocks = segments.iter().flat_map(|s| (0..s.tokens / BLOCK).map(|i| (s.id, i)));
            blocks.take_while(|b| self.0.contains(b)).count() as u64 * u64::from(BLOCK)
        }
        fn serve(&mut self, segments: &[Segment], capacity: usize) {
            let blocks: Vec<_> = segments.iter().flat_map(|s| (0..s.tokens / BLOCK).map(|i| (s.id, i))).collect();
            self.0.retain(|b| !blocks.contains(b));
            self.0.extend(blocks.iter().rev());
            let over = self.0.len().saturating_sub(capacity);
            self.0.drain(..over);
        }
    }

    fn serve(cache: &mut Cache, segments: &[Segment], capacity: u64) {
        segments.iter().for_each(|s| cache.reference(s.id));
        segments.iter().for_each(|s| {
            cache.grow(s.id, s.tokens);
        });
        cache.release(segments);
        cache.evict(cache.resident().saturating_sub(capacity));
    }

    /// A path in a small tree: the id says which path.
    fn path(turns: &[u8]) -> Vec<Segment> {
        let mut id = 1;
        let step = |t: &u8| {
            id = id * 4 + u32::from(*t % 4);
            Segment { id, tokens: BLOCK * (1 + id % 5) }
        };
        turns.iter().map(step).collect()
    }

    proptest! {
        #[test]
        fn it_evicts_block_for_block_what_vllm_would(prompts in vec(vec(0..4_u8, 1..5), 1..60), capacity in 10..60_u64) {
            let (mut cache, mut naive) = (Cache::default(), Naive::default());
            for turns in prompts {
                let segments = path(&turns);
                prop_assert_eq!(cache.hit(&segments), naive.hit(&segments));
                serve(&mut cache, &segments, capacity * u64::from(BLOCK));
                naive.serve(&segments, capacity as usize);
                prop_assert_eq!(cache.resident(), naive.0.len() as u64 * u64::from(BLOCK));
                prop_assert_eq!(cache.evictable(), cache.resident());
            }
        }
    }

    #[test]
    fn what_is_referenced_stays() {
        let (mut cache, a, b) = (Cache::default(), path(&[0, 1]), path(&[1]));
        serve(&mut cache, &a, 10_000);
        a.iter().for_each(|s| cache.reference(s.id));
        serve(&mut cache, &b, 10_000);
        cache.evict(1_000_000);
        assert_eq!((cache.hit(&a), cache.hit(&b)), (cache.resident(), 0));
        cache.release(&a);
        cache.forget();
        assert_eq!((cache.hit(&a), cache.resident(), cache.evictable()), (0, 0, 0));
    }
}
