//! The index against a naive model: one list of blocks a pod, walked as vLLM's free queue is.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// vLLM's rule, spelled out: using a prompt moves each of its boundaries to the recent end, deepest first; eviction
/// takes from the other end.
#[derive(Default, Clone)]
struct Naive {
    order: Vec<(PrefixHash, u64)>,
    capacity: u64,
}

impl Naive {
    fn insert(&mut self, chain: &[Boundary]) {
        for (i, b) in chain.iter().enumerate().rev() {
            let before = i.checked_sub(1).map_or(0, |j| chain[j].end);
            self.order.retain(|(h, _)| *h != b.hash);
            self.order.push((b.hash, u64::from(b.end - before)));
        }
        while self.used() > self.capacity {
            self.order.remove(0);
        }
    }

    fn used(&self) -> u64 {
        self.order.iter().map(|(_, n)| n).sum()
    }

    fn matched(&self, chain: &[Boundary]) -> u32 {
        chain.iter().take_while(|b| self.order.iter().any(|(h, _)| *h == b.hash)).map(|b| b.end).last().unwrap_or(0)
    }
}

/// A prompt: which branch is taken at each of its boundaries. Equal starts are equal prefixes.
pub(super) fn chain(branches: &[u8]) -> Vec<Boundary> {
    let (mut hash, mut end) = (7, 0);
    branches
        .iter()
        .map(|b| {
            hash = mix(hash, u64::from(*b));
            end += 10 + u32::from(*b % 3) * 5;
            Boundary { hash: PrefixHash(hash), end }
        })
        .collect()
}

fn index(endpoints: u32, capacity: u64) -> Index {
    bounded(1 << 20, endpoints, capacity)
}

fn bounded(max_entries: usize, endpoints: u32, capacity: u64) -> Index {
    let mut index = Index::new(max_entries);
    (0..endpoints).for_each(|s| index.add_endpoint(Slot(s), EndpointId(u64::from(s) + 1), capacity));
    index
}

proptest! {
    #[test]
    fn evicts_as_vllm_does(
        prompts in vec((0..3_u32, vec(0..3_u8, 1..7)), 1..80),
        capacity in 30..400_u64,
    ) {
        let mut real = index(3, capacity);
        let mut naive = vec![Naive { capacity, ..Naive::default() }; 3];
        for (i, (slot, branches)) in prompts.iter().enumerate() {
            let chain = chain(branches);
            real.insert(Slot(*slot), &chain, Millis(i as u64));
            naive[*slot as usize].insert(&chain);
            let mut matches = Vec::new();
            for (_, probe) in &prompts {
                let probe = super::tests::chain(probe);
                real.matches(&probe, &mut matches);
                for s in 0..3 {
                    prop_assert_eq!(matches[s].bytes, naive[s].matched(&probe));
                    prop_assert_eq!(real.matched(Slot(s as u32), &probe), matches[s].bytes);
                }
            }
            for (s, model) in naive.iter().enumerate() {
                prop_assert_eq!(real.used(Slot(s as u32)), model.used());
                let cache = real.cache(s as u32).unwrap();
                let oldest = real.nodes.get(cache.oldest as usize).map_or(Millis(0), |n| n.touched);
                prop_assert_eq!(cache.oldest_use, oldest);
            }
            prop_assert_eq!(real.entries(), naive.iter().map(|n| n.order.len()).sum::<usize>());
            prop_assert_eq!(real.filled, naive.iter().filter(|n| n.used() > 0).count());
        }
    }

    #[test]
    fn matches_are_what_each_endpoint_holds(
        happened in vec((0..4_u32, vec(0..2_u8, 1..4), 0..60_usize, 0..4), 1..80),
        capacity in prop_oneof![60..900_u64, Just(1 << 30)],
        max_entries in prop_oneof![8..300_usize, Just(1 << 20)],
    ) {
        let mut real = bounded(max_entries, 4, capacity);
        let mut matches = Vec::new();
        for (i, (slot, branches, shared, what)) in happened.iter().enumerate() {
            let at = Millis(i as u64);
            // Long beginnings that others share.
            let prompt = chain(&[vec![1; *shared], branches.clone()].concat());
            let middle = prompt.len() / 2;
            match what {
                0 => {
                    let inserted = real.insert(Slot(*slot), &prompt, at);
                    real.retract(Slot(*slot), inserted.last, inserted.fresh);
                }
                1 => {
                    real.restore(Slot(*slot), &prompt[middle..], Extent { continues: true, gaps: false }, at);
                }
                _ => {
                    real.insert(Slot(*slot), &prompt, at);
                }
            }
            for (_, branches, shared, _) in &happened {
                let probe = chain(&[vec![1; *shared], branches.clone()].concat());
                real.matches(&probe, &mut matches);
                for (s, found) in (0..).zip(&matches) {
                    prop_assert_eq!(found.bytes, real.matched(Slot(s), &probe));
                }
            }
        }
    }

    #[test]
    fn a_refill_rebuilds_it(
        prompts in vec((0..2_u32, vec(0..3_u8, 1..7)), 1..60),
        capacity in 50..400_u64,
        max_entries in prop_oneof![8..60_usize, Just(1 << 20)],
    ) {
        let mut original = bounded(max_entries, 2, capacity);
        for (i, (slot, branches)) in prompts.iter().enumerate() {
            original.insert(Slot(*slot), &chain(branches), Millis(i as u64));
        }
        let mut copy = bounded(max_entries, 2, capacity);
        for round in 0..2 {
            for slot in [Slot(0), Slot(1)] {
                for Chain { used, extent, boundaries } in original.chains(slot) {
                    copy.restore(slot, &boundaries, extent, used);
                }
            }
            prop_assert_eq!(copy.digest(), original.digest(), "round {}", round);
            prop_assert_eq!(copy.entries(), original.entries());
            let mut matches = Vec::new();
            for (_, branches) in &prompts {
                let prompt = chain(branches);
                copy.matches(&prompt, &mut matches);
                for (s, found) in (0..).zip(&matches) {
                    prop_assert_eq!(found.bytes, original.matched(Slot(s), &prompt));
                }
            }
        }
        // And it goes on evicting alike.
        for branches in [[9_u8, 9, 9, 9], [8, 8, 8, 8], [7, 7, 7, 7]] {
            original.insert(Slot(0), &chain(&branches), Millis(1000));
            copy.insert(Slot(0), &chain(&branches), Millis(1000));
            prop_assert_eq!(copy.digest(), original.digest());
        }
    }

    #[test]
    fn nothing_is_left_of_a_removed_endpoint(prompts in vec((0..3_u32, vec(0..3_u8, 1..7)), 1..60)) {
        let mut real = index(3, 1000);
        for (i, (slot, branches)) in prompts.iter().enumerate() {
            real.insert(Slot(*slot), &chain(branches), Millis(i as u64));
        }
        (0..3).for_each(|s| real.remove_endpoint(Slot(s)));
        prop_assert_eq!(real.entries(), 0);
        prop_assert_eq!(real.digest(), 0);
        prop_assert!(real.holders.is_empty());
    }
}

#[test]
fn turnover_is_known_once_the_cache_is_full() {
    let mut real = index(1, 60);
    real.insert(Slot(0), &chain(&[0, 0, 0]), Millis(5));
    assert_eq!(real.cache(0).and_then(Cache::oldest_use), None);
    real.insert(Slot(0), &chain(&[3, 3, 3]), Millis(9));
    assert_eq!(real.cache(0).and_then(Cache::oldest_use), Some(Millis(5)));
}

#[test]
fn what_is_missing_takes_all_that_was_not_used_for_longer() {
    let mut real = index(1, 10_000);
    let last = |branches: &[u8]| chain(branches).last().map(|b| b.hash);
    let held = |real: &Index, branches: &[u8]| real.matched(Slot(0), &chain(branches));
    for (branches, at) in [([9, 1, 1], 1), ([1, 1, 1], 2), ([8, 1, 1], 3), ([7, 1, 1], 9)] {
        real.insert(Slot(0), &chain(&branches), Millis(at));
    }
    // Sent at 5, answered at 10: all but its first two boundaries were missing.
    real.insert(Slot(0), &chain(&[1, 1, 1, 1]), Millis(5));
    let found = chain(&[1, 1])[1].end;
    assert_eq!(real.lost(Slot(0), last(&[1, 1, 1, 1]), found, Millis(2), Millis(5)), 3);
    let full = |branches: &[u8]| chain(branches).last().unwrap().end;
    assert_eq!(held(&real, &[9, 1, 1]), 0, "older than what is missing");
    assert_eq!(held(&real, &[8, 1, 1]), full(&[8, 1, 1]), "used since");
    assert_eq!(held(&real, &[7, 1, 1]), full(&[7, 1, 1]));
    assert_eq!(held(&real, &[1, 1, 1, 1]), full(&[1, 1, 1, 1]), "it is there now");
    assert_eq!(real.lost(Slot(0), last(&[9, 1, 1]), 0, Millis(0), Millis(99)), 0, "nothing known of it");
}

#[test]
fn a_boundary_is_ready_when_a_prefill_over_it_is_over() {
    let mut real = index(1, 10_000);
    let last = |branches: &[u8]| chain(branches).last().map(|b| b.hash);
    let ends: Vec<_> = chain(&[1, 2, 3, 4]).iter().map(|b| b.end).collect();
    real.insert(Slot(0), &chain(&[1, 2]), Millis(0));
    let found = real.insert(Slot(0), &chain(&[1, 2, 3]), Millis(1));
    assert_eq!(found, Inserted { fresh: 1, matched: ends[1], ready: 0, used: Millis(0), last: last(&[1, 2, 3]) });
    real.ready(Slot(0), last(&[1, 2]));
    let found = real.insert(Slot(0), &chain(&[1, 2, 3, 4]), Millis(2));
    assert_eq!(
        found,
        Inserted { fresh: 1, matched: ends[2], ready: ends[1], used: Millis(1), last: last(&[1, 2, 3, 4]) }
    );
}

#[test]
fn an_unknown_endpoint_is_left_alone() {
    let mut real = index(1, 60);
    real.insert(Slot(9), &chain(&[1]), Millis(0));
    assert_eq!((real.entries(), real.matched(Slot(9), &chain(&[1]))), (0, 0));
}

#[test]
fn a_retracted_insert_leaves_what_was_there_and_what_grew_from_it() {
    let mut real = index(1, 1000);
    let fresh = |real: &mut Index, branches: &[u8]| real.insert(Slot(0), &chain(branches), Millis(0)).fresh;
    let last = |branches: &[u8]| chain(branches).last().map(|b| b.hash);
    assert_eq!(fresh(&mut real, &[1, 2]), 2);
    let before = real.digest();
    assert_eq!(fresh(&mut real, &[1, 2, 3, 4]), 2);
    real.retract(Slot(0), last(&[1, 2, 3, 4]), 2);
    assert_eq!(real.digest(), before);
    assert_eq!(fresh(&mut real, &[1, 2, 3, 4]), 2);
    assert_eq!(fresh(&mut real, &[1, 2, 3, 4, 5]), 1);
    let grown = real.digest();
    real.retract(Slot(0), last(&[1, 2, 3, 4]), 2);
    assert_eq!(real.digest(), grown);
    real.remove_endpoint(Slot(0));
    assert_eq!((real.entries(), real.digest()), (0, 0));
}

#[test]
fn a_retracted_insert_leaves_what_another_request_is_in_flight_with() {
    let mut real = index(1, 1000);
    let (prompt, last) = (chain(&[1, 2]), Some(chain(&[1, 2])[1].hash));
    let first = real.insert_pinned(Slot(0), &prompt, Millis(0));
    real.insert_pinned(Slot(0), &prompt, Millis(0));
    real.unpin(Slot(0), last, Millis(1));
    real.retract(Slot(0), last, first.fresh);
    assert_eq!((real.matched(Slot(0), &prompt), real.pinned(Slot(0))), (prompt[1].end, u64::from(prompt[1].end)));
    real.unpin(Slot(0), last, Millis(2));
    assert_eq!(real.pinned(Slot(0)), 0);
}

proptest! {
    /// Pinned bytes against the union of the prompts in flight; what is pinned is never evicted.
    #[test]
    fn what_is_in_flight_is_counted_once_and_stays(
        steps in vec((vec(0..3_u8, 1..7), any::<bool>(), any::<prop::sample::Index>()), 1..60),
        capacity in 30..300_u64,
    ) {
        let mut real = index(1, capacity);
        let mut in_flight: Vec<Vec<Boundary>> = Vec::new();
        for (i, (branches, start, which)) in steps.iter().enumerate() {
            let now = Millis(i as u64);
            if *start || in_flight.is_empty() {
                let chain = chain(branches);
                real.insert_pinned(Slot(0), &chain, now);
                in_flight.push(chain);
            } else {
                let over = in_flight.swap_remove(which.index(in_flight.len()));
                real.unpin(Slot(0), over.last().map(|b| b.hash), now);
            }
            let mut union: Vec<_> = in_flight.iter().flat_map(|c| {
                c.iter().enumerate().map(|(i, b)| (b.hash, b.end - i.checked_sub(1).map_or(0, |j| c[j].end)))
            }).collect();
            union.sort_unstable();
            union.dedup();
            prop_assert_eq!(real.pinned(Slot(0)), union.iter().map(|(_, n)| u64::from(*n)).sum::<u64>());
            for chain in &in_flight {
                prop_assert_eq!(real.matched(Slot(0), chain), chain.last().unwrap().end);
            }
        }
        for over in in_flight {
            real.unpin(Slot(0), over.last().map(|b| b.hash), Millis(99));
        }
        prop_assert_eq!(real.pinned(Slot(0)), 0);
        prop_assert!(real.used(Slot(0)) <= capacity);
        real.remove_endpoint(Slot(0));
        prop_assert_eq!((real.entries(), real.digest()), (0, 0));
    }
}

#[test]
fn a_match_tells_how_many_in_flight_go_on_from_it() {
    let mut real = index(1, 10_000);
    real.insert(Slot(0), &chain(&[0, 0, 7, 1]), Millis(0));
    for branch in 0..3 {
        real.insert_pinned(Slot(0), &chain(&[0, 0, branch, 1]), Millis(0));
    }
    let of = |real: &Index, branches: &[u8]| {
        let mut matches = Vec::new();
        real.matches(&chain(branches), &mut matches);
        real.sharing(matches[0])
    };
    assert_eq!((of(&real, &[0, 0, 9]), of(&real, &[0, 0, 1, 9]), of(&real, &[0, 0, 7, 1, 9])), (3, 1, 0));
    real.unpin(Slot(0), Some(chain(&[0, 0, 1, 1])[3].hash), Millis(1));
    assert_eq!((of(&real, &[0, 0, 9]), of(&real, &[0, 0, 1, 9])), (2, 0));
}
