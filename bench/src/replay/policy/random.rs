//! Any pod, each as likely.
//!
//! As Envoy's `RANDOM` (envoyproxy/envoy, `api/envoy/config/cluster/v3/cluster.proto`, `LbPolicy`). No parameters.

use super::fleet::{Fleet, HEALTH};
use super::{Asked, Policy, Scrape, Setting};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// See the module's text.
pub struct Random {
    fleet: Fleet,
    rng: SmallRng,
}

impl Random {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self { fleet: Fleet::default(), rng: SmallRng::seed_from_u64(setting.seed) }
    }
}

impl Policy for Random {
    fn choose(&mut self, _asked: &Asked<'_>) -> usize {
        let pods = self.fleet.choosable();
        if pods.is_empty() { 0 } else { pods[self.rng.random_range(0..pods.len())] }
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
    fn all_choosable_pods_get_their_share() {
        let mut rule = Random::new(&setting(4));
        let mut pods = idle(4);
        pods[1].choosable = false;
        rule.scraped(&pods, 0.0);
        let mut seen = [0; 4];
        (0..300).for_each(|n| seen[ask(&mut rule, n, 0, &prompt(&[], 9), 0.0)] += 1);
        assert!(seen[1] == 0 && [0, 2, 3].iter().all(|p| seen[*p] > 60), "{seen:?}");
    }
}
