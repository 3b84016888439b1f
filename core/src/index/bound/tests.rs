//! The index's own bound, against a naive model of it.

use super::super::tests::chain;
use super::super::*;
use super::MOST_GAP;
use proptest::collection::vec;
use proptest::prelude::*;

const ENDPOINTS: u32 = 3;

fn index(max_entries: usize, capacity: u64) -> Index {
    let mut index = Index::new(max_entries);
    (0..ENDPOINTS).for_each(|s| index.add_endpoint(Slot(s), EndpointId(u64::from(s) + 1), capacity));
    index
}

struct Block {
    hash: PrefixHash,
    bytes: u64,
    before: Option<PrefixHash>,
}

/// One list of blocks a pod, as vLLM's free queue is; half of the places are free, the others have their price; beyond
/// the bound the longest list gives its oldest.
struct Naive {
    pods: Vec<Vec<Block>>,
    max_entries: usize,
    capacity: u64,
    crowded_out: u64,
}

impl Naive {
    fn new(max_entries: usize, capacity: u64) -> Self {
        Self { pods: (0..ENDPOINTS).map(|_| Vec::new()).collect(), max_entries, capacity, crowded_out: 0 }
    }

    fn entries(&self) -> usize {
        self.pods.iter().map(Vec::len).sum()
    }

    fn has(&self, pod: usize, hash: PrefixHash) -> bool {
        self.pods[pod].iter().any(|b| b.hash == hash)
    }

    fn matched(&self, pod: usize, chain: &[Boundary]) -> u32 {
        chain.iter().filter(|b| self.has(pod, b.hash)).map(|b| b.end).max().unwrap_or(0)
    }

    fn insert(&mut self, pod: usize, chain: &[Boundary]) {
        let places = self.max_entries as u64 / 2;
        let gap = (self.capacity * u64::from(ENDPOINTS)).div_ceil(places.max(1)).min(MOST_GAP);
        let end = self.matched(pod, chain);
        let mut last = chain.iter().find(|b| b.end == end).copied();
        // What is used, the deepest last.
        let mut path = Vec::new();
        let mut up = last.map(|b| b.hash);
        while let Some(hash) = up {
            let at = self.pods[pod].iter().position(|b| b.hash == hash).unwrap();
            let block = self.pods[pod].remove(at);
            up = block.before;
            path.insert(0, block);
        }
        for b in chain.iter().filter(|b| b.end > end) {
            let bytes = u64::from(b.end - last.map_or(0, |l| l.end));
            if 2 * (self.entries() + path.len()) < self.max_entries || bytes >= gap {
                path.push(Block { hash: b.hash, bytes, before: last.map(|l| l.hash) });
                last = Some(*b);
            }
        }
        self.pods[pod].extend(path.into_iter().rev());
        while self.pods[pod].iter().map(|b| b.bytes).sum::<u64>() > self.capacity {
            self.pods[pod].remove(0);
        }
        while self.entries() > self.max_entries {
            let most = (0..self.pods.len()).max_by_key(|p| (self.pods[*p].len(), *p)).unwrap();
            self.pods[most].remove(0);
            self.crowded_out += 1;
        }
    }
}

proptest! {
    #[test]
    fn places_are_given_and_taken_as_the_model_does(
        prompts in vec((0..ENDPOINTS, vec(0..3_u8, 1..7)), 1..80),
        capacity in 30..400_u64,
        max_entries in 1..60_usize,
    ) {
        let mut real = index(max_entries, capacity);
        let mut naive = Naive::new(max_entries, capacity);
        for (i, (slot, branches)) in prompts.iter().enumerate() {
            real.insert(Slot(*slot), &chain(branches), Millis(i as u64));
            naive.insert(*slot as usize, &chain(branches));
            prop_assert!(real.entries() <= max_entries);
            prop_assert_eq!((real.entries(), real.crowded_out()), (naive.entries(), naive.crowded_out));
            for (_, probe) in &prompts {
                let probe = chain(probe);
                for s in 0..ENDPOINTS {
                    prop_assert_eq!(real.matched(Slot(s), &probe), naive.matched(s as usize, &probe));
                }
            }
        }
    }

    /// The promise of the module's text: while no gap is at its most, only the pods' own sizes evict.
    #[test]
    fn small_pieces_push_nothing_out_that_the_pods_have(
        prompts in vec((0..ENDPOINTS, vec(0..9_u8, 1..7)), 1..200),
        capacity in 30..400_u64,
        max_entries in 8..60_usize,
    ) {
        let mut real = index(max_entries, capacity);
        for (i, (slot, branches)) in prompts.iter().enumerate() {
            real.insert(Slot(*slot), &chain(branches), Millis(i as u64));
        }
        prop_assert_eq!(real.crowded_out(), 0);
        prop_assert!(real.entries() <= max_entries);
    }

    #[test]
    fn requests_in_flight_keep_to_the_bound_too(
        steps in vec((0..ENDPOINTS, vec(0..3_u8, 1..7), any::<bool>(), any::<prop::sample::Index>()), 1..60),
        max_entries in 1..20_usize,
    ) {
        let mut real = index(max_entries, 1000);
        let mut in_flight = Vec::new();
        for (i, (slot, branches, start, which)) in steps.iter().enumerate() {
            let now = Millis(i as u64);
            if *start || in_flight.is_empty() {
                let chain = chain(branches);
                let inserted = real.insert_pinned(Slot(*slot), &chain, now);
                let held = real.matched(Slot(*slot), &chain);
                prop_assert_eq!(chain.iter().find(|b| b.end == held).map(|b| b.hash), inserted.last);
                in_flight.push((Slot(*slot), chain, inserted, held));
            } else {
                let (slot, _, over, _) = in_flight.swap_remove(which.index(in_flight.len()));
                real.unpin(slot, over.last, now);
            }
            prop_assert!(real.entries() <= max_entries);
            for (slot, chain, _, held) in &in_flight {
                prop_assert!(real.matched(*slot, chain) >= *held);
            }
        }
        for (slot, _, over, _) in in_flight {
            real.unpin(slot, over.last, Millis(99));
        }
        for s in (0..ENDPOINTS).map(Slot) {
            prop_assert_eq!(real.pinned(s), 0);
            real.remove_endpoint(s);
        }
        prop_assert_eq!((real.entries(), real.digest()), (0, 0));
    }
}

#[test]
fn the_endpoint_with_the_most_gives_whoever_is_new() {
    let mut real = index(40, u64::MAX);
    // Far apart: worth any place.
    let prompt = |n: u64| vec![Boundary { hash: PrefixHash(mix(n, 1)), end: 9999 }];
    (0..100).for_each(|n| {
        real.insert(Slot(0), &prompt(n), Millis(n));
    });
    (200..215).for_each(|n| {
        real.insert(Slot(1), &prompt(n), Millis(n));
    });
    assert_eq!((200..215).filter(|n| real.matched(Slot(1), &prompt(*n)) > 0).count(), 15);
    assert_eq!(
        (0..100).filter(|n| real.matched(Slot(0), &prompt(*n)) > 0).collect::<Vec<_>>(),
        (75..100).collect::<Vec<_>>()
    );
    assert_eq!(real.crowded_out(), 75);
}

#[test]
fn an_endpoint_that_says_it_is_huge_raises_no_other_ones_price() {
    let mut real = index(100, 500);
    real.set_capacity(Slot(2), u64::MAX);
    let pieces =
        |n: u64| (1..=5).map(|i| Boundary { hash: PrefixHash(mix(n, i)), end: i as u32 * 40 }).collect::<Vec<_>>();
    (0..30).for_each(|n| {
        real.insert(Slot(2), &pieces(n), Millis(n));
    });
    assert_eq!(real.entries(), 50);
    real.insert(Slot(0), &pieces(99), Millis(99));
    assert_eq!(real.matched(Slot(0), &pieces(99)), 200, "its gap is 500 x 3 / 50 = 30");
}
