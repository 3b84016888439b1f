//! SMG's `cache_aware`: the pod that last matched more than half of the prompt, unless the load is uneven.
//!
//! Source: lightseekorg/smg 73da68c (2026-08-07, after v1.9.0; before: sgl-project/sglang `sgl-model-gateway`),
//! `model_gateway/src/policies/cache_aware.rs` and `crates/kv_index/src/string_tree.rs`.
//!
//! * Uneven is: most - fewest in flight > `balance_abs_threshold` = 32, and most > `balance_rel_threshold` = 1.1 ×
//!   fewest. Then the pod with the fewest in flight gets it.
//! * Else, if a prefix of more than `cache_threshold` = 0.5 of the prompt is in the tree, the pod that put it there
//!   gets it: a node of the tree names one pod, its first, as long as that one still holds it. Else the pod with the
//!   fewest.
//! * Of equals, the one that got the fewest requests so far, then the first.
//! * The tree takes each prompt for the pod that got it. Each `eviction_interval` = 120 s it loses, for each pod over
//!   `max_tree_size` = 2^26 characters (here 2^24 tokens), the leaves used longest ago.
//!
//! The thresholds are those of the library (`policies/mod.rs`, `CacheAwareConfig::default`); the tree's are those of
//! the launcher (`main.rs`), as the library's 10,000 characters hold not one long prompt. The launcher's own thresholds
//! are 0.3, 64 and 1.5. The triggers by KV usage are off by default. A tree and a count of load for each gateway
//! process: nothing is shared between replicas (the mesh is off by default).
//!
//! Where the pod that a node names is gone, the code takes the first healthy one; its comments say the one with the
//! fewest in flight, which is what is done here, and a pod that restarts or leaves is taken off the tree at once.

use super::fleet::{Fleet, HEALTH, InFlight};
use super::{Answered, Asked, Policy, Scrape, Setting};
use crate::replay::cache::IntMap;
use crate::replay::workload::Prompt;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const CACHE_THRESHOLD: f64 = 0.5;
const ABSOLUTE: u32 = 32;
const RELATIVE: f64 = 1.1;
/// Seconds.
const EVICTION_INTERVAL: f64 = 120.0;
/// Tokens of each pod: 2^26 characters at four a token.
const MAX_TREE: u64 = 1 << 24;

const ROOT: u32 = u32::MAX;

struct Node {
    parent: u32,
    tokens: u32,
    /// The pod that is named, and all that hold it, with the time of their last use as a leaf.
    named: Option<usize>,
    holders: Vec<(usize, u64)>,
}

impl Node {
    fn drop_holder(&mut self, pod: usize) {
        self.holders.retain(|(p, _)| *p != pod);
        if self.named == Some(pod) {
            self.named = self.holders.first().map(|(p, _)| *p);
        }
    }
}

/// A prefix tree, a node for each segment.
struct Tree {
    nodes: IntMap<Node>,
    epoch: u64,
    sizes: Vec<u64>,
}

impl Tree {
    fn new(pods: usize) -> Self {
        Self { nodes: IntMap::default(), epoch: 0, sizes: vec![0; pods] }
    }

    /// How many tokens of a prompt are in it, and the pod that the deepest node names.
    fn find(&self, prompt: &Prompt) -> (u32, Option<usize>) {
        let (mut matched, mut named) = (0, None);
        for segment in &prompt.segments {
            let Some(node) = self.nodes.get(&segment.id) else { break };
            matched += segment.tokens;
            named = node.named;
        }
        (matched, named)
    }

    fn insert(&mut self, prompt: &Prompt, pod: usize) {
        self.epoch += 1;
        let mut parent = ROOT;
        for (i, segment) in prompt.segments.iter().enumerate() {
            let fresh = !self.nodes.contains_key(&segment.id);
            let node = self.nodes.entry(segment.id).or_insert_with(|| Node {
                parent,
                tokens: segment.tokens,
                named: Some(pod),
                holders: Vec::new(),
            });
            node.named = node.named.or(Some(pod));
            // New text is a leaf with the time; what was there gets none, unless the prompt ends there.
            let used = if fresh || i + 1 == prompt.segments.len() { self.epoch } else { 0 };
            match node.holders.iter_mut().find(|(p, _)| *p == pod) {
                Some((_, at)) => *at = used.max(*at),
                None => {
                    node.holders.push((pod, used));
                    self.sizes[pod] += u64::from(segment.tokens);
                }
            }
            parent = segment.id;
        }
    }

    fn remove(&mut self, pod: usize) {
        self.nodes.values_mut().for_each(|n| n.drop_holder(pod));
        self.nodes.retain(|_, n| !n.holders.is_empty());
        self.sizes[pod] = 0;
    }

    /// Takes leaves off each pod that holds more than `most` tokens.
    fn evict(&mut self, most: u64) {
        for pod in (0..self.sizes.len()).filter(|p| self.sizes[*p] > most).collect::<Vec<_>>() {
            let used = |n: &Node| n.holders.iter().find(|(p, _)| *p == pod).map(|(_, at)| *at);
            let mut children: IntMap<u32> = IntMap::default();
            for node in self.nodes.values().filter(|n| used(n).is_some()) {
                *children.entry(node.parent).or_default() += 1;
            }
            let leaf = |(id, n): (&u32, &Node)| Some(Reverse((used(n)?, *id))).filter(|_| !children.contains_key(id));
            let mut leaves: BinaryHeap<_> = self.nodes.iter().filter_map(leaf).collect();
            while self.sizes[pod] > most
                && let Some(Reverse((_, id))) = leaves.pop()
                && let Some(node) = self.nodes.get_mut(&id)
            {
                self.sizes[pod] -= u64::from(node.tokens);
                node.drop_holder(pod);
                let (parent, empty) = (node.parent, node.holders.is_empty());
                if empty {
                    self.nodes.remove(&id);
                }
                let left = children.entry(parent).or_insert(1);
                *left -= 1;
                if *left == 0
                    && let Some(at) = self.nodes.get(&parent).and_then(used)
                {
                    leaves.push(Reverse((at, parent)));
                }
            }
        }
    }
}

struct Gateway {
    tree: Tree,
    /// Requests sent to each pod so far.
    processed: Vec<u64>,
}

/// See the module's text.
pub struct Smg {
    fleet: Fleet,
    in_flight: InFlight,
    gateways: Vec<Gateway>,
    evicted: f64,
    believed: u64,
}

impl Smg {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        let gateway = |_| Gateway { tree: Tree::new(setting.pods), processed: vec![0; setting.pods] };
        Self {
            fleet: Fleet::default(),
            in_flight: InFlight::new(setting.gateways, setting.pods),
            gateways: (0..setting.gateways).map(gateway).collect(),
            evicted: 0.0,
            believed: 0,
        }
    }
}

impl Policy for Smg {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let gateway = &mut self.gateways[asked.place.gateway];
        let counts = self.in_flight.of(asked.place.gateway);
        let pods = self.fleet.choosable();
        let fewest_at = pods.iter().copied().min_by_key(|p| (counts[*p], gateway.processed[*p], *p)).unwrap_or(0);
        let most = pods.iter().map(|p| counts[*p]).max().unwrap_or(0);
        let fewest = counts[fewest_at];
        let uneven = most.saturating_sub(fewest) > ABSOLUTE && f64::from(most) > f64::from(fewest) * RELATIVE;
        let (matched, named) = gateway.tree.find(asked.prompt);
        let hit = f64::from(matched) / f64::from(asked.prompt.tokens.max(1)) > CACHE_THRESHOLD;
        let named = named.filter(|p| hit && !uneven && self.fleet.can_choose(*p));
        let pod = named.unwrap_or(fewest_at);
        self.believed = if named.is_some() { u64::from(matched) } else { 0 };
        gateway.tree.insert(asked.prompt, pod);
        gateway.processed[pod] += 1;
        self.in_flight.sent(asked.place.gateway, pod);
        pod
    }

    fn answered(&mut self, answer: &Answered) {
        self.in_flight.done(answer.place.gateway, answer.pod);
    }

    fn scraped(&mut self, pods: &[Scrape], now: f64) {
        let gateways = &mut self.gateways;
        self.fleet.update(pods, |pod| gateways.iter_mut().for_each(|g| g.tree.remove(pod)));
        if now - self.evicted >= EVICTION_INTERVAL {
            self.evicted = now;
            gateways.iter_mut().for_each(|g| g.tree.evict(MAX_TREE));
        }
    }

    fn scrape_interval(&self) -> f64 {
        HEALTH
    }

    fn believed(&self) -> Option<u64> {
        Some(self.believed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{ask, idle, prompt, setting};
    use super::*;

    #[test]
    fn more_than_half_follows_and_half_does_not() {
        let mut rule = Smg::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 640)], 0), 0.0);
        assert_eq!(ask(&mut rule, 1, 0, &prompt(&[(1, 640), (2, 624)], 0), 0.0), pod);
        assert_eq!(rule.believed(), Some(640));
        assert_ne!(ask(&mut rule, 2, 0, &prompt(&[(1, 640), (3, 640)], 0), 0.0), pod);
        // Another gateway's tree is empty.
        ask(&mut rule, 3, 1, &prompt(&[(1, 640)], 0), 0.0);
        assert_eq!(rule.believed(), Some(0));
    }

    #[test]
    fn an_uneven_load_spills() {
        let mut rule = Smg::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let hot = prompt(&[(1, 640)], 0);
        let pod = ask(&mut rule, 0, 0, &hot, 0.0);
        assert!((1..33).all(|n| ask(&mut rule, n, 0, &hot, 0.0) == pod));
        // 33 to none: over the threshold of 32.
        assert_ne!(ask(&mut rule, 33, 0, &hot, 0.0), pod);
    }

    #[test]
    fn the_tree_loses_old_leaves_and_not_their_roots() {
        let mut tree = Tree::new(2);
        tree.insert(&prompt(&[(1, 16), (2, 16)], 0), 0);
        tree.insert(&prompt(&[(1, 16), (3, 16)], 0), 0);
        tree.insert(&prompt(&[(1, 16), (2, 16)], 0), 1);
        tree.evict(32);
        assert_eq!(tree.sizes, [32, 32]);
        assert_eq!(tree.find(&prompt(&[(1, 16), (3, 16)], 0)), (32, Some(0)));
        // The second pod still holds it, and is named now.
        assert_eq!(tree.find(&prompt(&[(1, 16), (2, 16)], 0)), (32, Some(1)));
        tree.evict(0);
        assert!(tree.nodes.is_empty() && tree.sizes == [0, 0]);
    }

    #[test]
    fn a_pod_that_left_is_no_longer_named() {
        let mut rule = Smg::new(&setting(4));
        let mut pods = idle(2);
        rule.scraped(&pods, 0.0);
        let p = prompt(&[(1, 640)], 0);
        let pod = ask(&mut rule, 0, 0, &p, 0.0);
        (pods[pod].choosable, pods[pod].present) = (false, false);
        rule.scraped(&pods, 1.0);
        assert_eq!(ask(&mut rule, 1, 0, &p, 1.0), 1 - pod);
        (pods[pod].choosable, pods[pod].present) = (true, true);
        rule.scraped(&pods, 2.0);
        assert_eq!((ask(&mut rule, 2, 0, &p, 2.0), rule.believed()), (1 - pod, Some(640)));
    }
}
