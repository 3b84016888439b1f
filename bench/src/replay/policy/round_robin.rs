//! One pod after the other, each gateway for itself.
//!
//! As Envoy's `ROUND_ROBIN` (envoyproxy/envoy, `api/envoy/config/cluster/v3/cluster.proto`, `LbPolicy`), which starts
//! at a random pod so that gateways don't walk in step. No parameters.

use super::fleet::{Fleet, HEALTH};
use super::{Asked, Policy, Scrape, Setting};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// See the module's text.
pub struct RoundRobin {
    fleet: Fleet,
    next: Vec<usize>,
}

impl RoundRobin {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        let mut rng = SmallRng::seed_from_u64(setting.seed);
        let start = |_| rng.random_range(0..setting.pods.max(1));
        Self { fleet: Fleet::default(), next: (0..setting.gateways).map(start).collect() }
    }
}

impl Policy for RoundRobin {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let pods = self.fleet.choosable();
        let next = &mut self.next[asked.place.gateway];
        *next += 1;
        if pods.is_empty() { 0 } else { pods[*next % pods.len()] }
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        self.fleet.update(pods, |_| {});
    }

    fn scrape_interval(&self) -> f64 {
        HEALTH
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{ask, idle, prompt, setting};
    use super::*;

    #[test]
    fn each_gateway_goes_round_by_itself() {
        let mut rule = RoundRobin::new(&setting(4));
        let mut pods = idle(4);
        pods[2].choosable = false;
        rule.scraped(&pods, 0.0);
        let p = prompt(&[], 9);
        let first: Vec<usize> = (0..6).map(|n| ask(&mut rule, n, 0, &p, 0.0)).collect();
        assert_eq!(first[..3], first[3..]);
        let mut sorted = first[..3].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 3]);
        let other: Vec<usize> = (0..3).map(|n| ask(&mut rule, n, 1, &p, 0.0)).collect();
        assert!(other.iter().all(|p| [0, 1, 3].contains(p)) && other[0] != other[1]);
    }
}
