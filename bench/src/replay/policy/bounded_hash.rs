//! Consistent hashing with bounded loads on the beginning of the prompt.
//!
//! The rule is that of Mirrokni, Thorup and Zadimoghaddam, «Consistent Hashing with Bounded Loads» (arXiv 1608.01350,
//! 2016), in the form of KubeAI's `PrefixHash` (substratusai/kubeai 2f32ef4, `internal/loadbalancer/balance_chwbl.go`;
//! defaults in `api/k8s/v1/model_types.go`): each pod stands `replication` = 256 times on a ring; a request starts at
//! the hash of its first `prefixCharLength` = 100 characters, here 25 tokens, and goes on around the ring to the first
//! pod whose load is at most `meanLoadFactor` = 125 % of `(total + 1) / pods`. Load is what is in flight from this
//! gateway.
//!
//! KubeAI takes the characters from the first user message of a chat, and from the beginning of the prompt of a
//! completion. Prompts here have no messages, so it is the latter: prompts that share the beginning share a key.

use super::fleet::{Fleet, HEALTH, InFlight};
use super::{Answered, Asked, Policy, Scrape, Setting};
use crate::replay::workload::Prompt;

const LOAD_FACTOR: f64 = 1.25;
const REPLICATION: u64 = 256;
/// 100 characters.
const PREFIX: u32 = 25;

/// See the module's text.
pub struct BoundedHash {
    fleet: Fleet,
    in_flight: InFlight,
    /// (hash, pod), in the order of hashes.
    ring: Vec<(u64, usize)>,
}

/// Splitmix64: spreads small numbers.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The hash of a prompt's beginning: that of its own if it shares less.
fn key(prompt: &Prompt, number: usize) -> u64 {
    let mut end = 0;
    let covering = prompt.segments.iter().find(|s| {
        end += s.tokens;
        end >= PREFIX
    });
    let short = || if prompt.tokens < PREFIX { prompt.segments.last() } else { None };
    match covering.or_else(short) {
        Some(s) => mix(u64::from(s.id)),
        None => mix(mix(number as u64)),
    }
}

impl BoundedHash {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self { fleet: Fleet::default(), in_flight: InFlight::new(setting.gateways, setting.pods), ring: Vec::new() }
    }
}

impl Policy for BoundedHash {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let key = key(asked.prompt, asked.number);
        let start = self.ring.partition_point(|(hash, _)| *hash < key);
        let counts = self.in_flight.of(asked.place.gateway);
        let total: u32 = self.fleet.choosable().iter().map(|p| counts[*p]).sum();
        let most = LOAD_FACTOR * f64::from(total + 1) / self.fleet.choosable().len() as f64;
        let (before, after) = self.ring.split_at(start);
        let mut around = after.iter().chain(before).map(|(_, pod)| *pod);
        let first = around.clone().next().unwrap_or(0);
        let pod = around.find(|p| total == 0 || f64::from(counts[*p]) <= most).unwrap_or(first);
        self.in_flight.sent(asked.place.gateway, pod);
        pod
    }

    fn answered(&mut self, answer: &Answered) {
        self.in_flight.done(answer.place.gateway, answer.pod);
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let before = self.fleet.choosable().to_vec();
        self.fleet.update(pods, |_| {});
        if self.fleet.choosable() != before {
            let replicas = |p: &usize| {
                let pod = *p;
                (0..REPLICATION).map(move |r| (mix((pod as u64) << 32 | 1 << 63 | r), pod))
            };
            self.ring = self.fleet.choosable().iter().flat_map(replicas).collect();
            self.ring.sort_unstable();
        }
    }

    fn scrape_interval(&self) -> f64 {
        HEALTH
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{ask, end, idle, prompt, setting};
    use super::*;

    #[test]
    fn equal_beginnings_go_to_one_pod_at_every_gateway() {
        let mut rule = BoundedHash::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let (a, b) = (prompt(&[(1, 64), (2, 640)], 3), prompt(&[(1, 64), (3, 64)], 0));
        let pod = ask(&mut rule, 0, 0, &a, 0.0);
        assert_eq!(ask(&mut rule, 1, 1, &b, 0.0), pod);
        end(&mut rule, 0, 0, pod, 0.0);
        let others = (2..60).map(|id| {
            let pod = ask(&mut rule, id as usize, 0, &prompt(&[(id, 64)], 0), 0.0);
            end(&mut rule, id as usize, 0, pod, 0.0);
            pod
        });
        assert_eq!(others.collect::<std::collections::HashSet<_>>().len(), 4);
    }

    #[test]
    fn no_pod_gets_more_than_its_bound() {
        let mut rule = BoundedHash::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let mut seen = [0_u32; 4];
        (0..100).for_each(|n| seen[ask(&mut rule, n, 0, &prompt(&[(1, 64)], 0), 0.0)] += 1);
        // 1.25 × 100 / 4, and the one that was allowed at the bound.
        assert!(seen.iter().all(|n| *n <= 32), "{seen:?}");
    }

    #[test]
    fn a_pod_that_leaves_moves_only_its_own() {
        let mut rule = BoundedHash::new(&setting(4));
        let mut pods = idle(4);
        let place = |rule: &mut BoundedHash| -> Vec<usize> {
            let one = |id| {
                let pod = ask(rule, 0, 0, &prompt(&[(id, 64)], 0), 0.0);
                end(rule, 0, 0, pod, 0.0);
                pod
            };
            (0..50).map(one).collect()
        };
        rule.scraped(&pods, 0.0);
        let before = place(&mut rule);
        pods[1].choosable = false;
        rule.scraped(&pods, 1.0);
        let after = place(&mut rule);
        assert!(before.iter().zip(&after).all(|(b, a)| *a != 1 && (*b == 1 || a == b)));
    }
}
