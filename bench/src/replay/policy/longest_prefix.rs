//! The longest matching prefix; among equals the fewest requests in flight; among these any.
//!
//! Source: vllm-project/production-stack 5ae0b10, `src/vllm_router/routers/routing_logic.py`, `PrefixAwareRouter`: the
//! pods with the longest match in a trie of what was sent where, any of them, whatever their load. That one matches
//! pieces of 128 characters and never forgets. This is the stronger form: blocks of the engine's own 16 tokens, evicted
//! as the engine evicts, with the pods' true capacity, and load decides among equals. The gateway's workers share the
//! memory, gateways don't. No parameters.

use super::blocks::Prefixes;
use super::fleet::{Fleet, HEALTH, InFlight, lowest};
use super::{Answered, Asked, Policy, Scrape, Setting};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cmp::Reverse;

/// See the module's text.
pub struct LongestPrefix {
    fleet: Fleet,
    in_flight: InFlight,
    gateways: Vec<Prefixes>,
    matched: Vec<u32>,
    believed: u64,
    rng: SmallRng,
}

impl LongestPrefix {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self {
            fleet: Fleet::default(),
            in_flight: InFlight::new(setting.gateways, setting.pods),
            gateways: (0..setting.gateways).map(|_| Prefixes::new(setting.pods, setting.capacity)).collect(),
            matched: vec![0; setting.pods],
            believed: 0,
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }
}

impl Policy for LongestPrefix {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let gateway = asked.place.gateway;
        for &pod in self.fleet.choosable() {
            self.matched[pod] = self.gateways[gateway].matched(pod, asked.prompt);
        }
        let counts = self.in_flight.of(gateway);
        let pod = lowest(self.fleet.choosable(), &mut self.rng, |p| (Reverse(self.matched[p]), counts[p]));
        self.believed = u64::from(self.matched[pod]);
        self.gateways[gateway].add(pod, asked.prompt);
        self.in_flight.sent(gateway, pod);
        pod
    }

    fn answered(&mut self, answer: &Answered) {
        self.in_flight.done(answer.place.gateway, answer.pod);
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let gateways = &mut self.gateways;
        self.fleet.update(pods, |pod| gateways.iter_mut().for_each(|g| g.forget(pod)));
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
    fn load_never_outweighs_a_match() {
        let mut rule = LongestPrefix::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 64)], 0), 0.0);
        for n in 1..50 {
            assert_eq!(ask(&mut rule, n, 0, &prompt(&[(1, 64), (n as u32 + 1, 6400)], 5), 0.0), pod);
            assert_eq!(rule.believed(), Some(64));
        }
    }

    #[test]
    fn without_a_match_the_idle_pod_gets_it() {
        let mut rule = LongestPrefix::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let mut pods: Vec<usize> = (0..4).map(|n| ask(&mut rule, n, 0, &prompt(&[(n as u32, 64)], 0), 0.0)).collect();
        pods.sort_unstable();
        assert_eq!(pods, [0, 1, 2, 3]);
    }

    #[test]
    fn what_exceeds_the_capacity_and_what_restarted_is_forgotten() {
        let mut rule = LongestPrefix::new(&setting(1));
        let mut pods = idle(1);
        rule.scraped(&pods, 0.0);
        for n in 0..5 {
            ask(&mut rule, n, 0, &prompt(&[(n as u32, 32_000)], 0), 0.0);
        }
        ask(&mut rule, 9, 0, &prompt(&[(4, 32_000)], 0), 0.0);
        assert_eq!(rule.believed(), Some(32_000));
        ask(&mut rule, 9, 0, &prompt(&[(0, 32_000)], 0), 0.0);
        assert_eq!(rule.believed(), Some(0));
        pods[0].incarnation = 1;
        rule.scraped(&pods, 1.0);
        ask(&mut rule, 9, 0, &prompt(&[(4, 32_000)], 0), 0.0);
        assert_eq!(rule.believed(), Some(0));
    }
}
