//! The pod with the fewest requests in flight, as far as this gateway knows: it counts its own.
//!
//! A full scan with a random choice among equals, as KubeAI's `LeastLoad` (substratusai/kubeai 2f32ef4,
//! `internal/loadbalancer/balance_least_load.go`). Envoy's `LEAST_REQUEST` with equal weights samples
//! `choice_count` = 2 hosts by default (envoyproxy/envoy, `api/envoy/config/cluster/v3/cluster.proto`,
//! `LeastRequestLbConfig`): this is the stronger form. No parameters.

use super::fleet::{Fleet, HEALTH, InFlight, lowest};
use super::{Answered, Asked, Policy, Scrape, Setting};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// See the module's text.
pub struct LeastRequest {
    fleet: Fleet,
    in_flight: InFlight,
    rng: SmallRng,
}

impl LeastRequest {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self {
            fleet: Fleet::default(),
            in_flight: InFlight::new(setting.gateways, setting.pods),
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }
}

impl Policy for LeastRequest {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let counts = self.in_flight.of(asked.place.gateway);
        let pod = lowest(self.fleet.choosable(), &mut self.rng, |p| counts[p]);
        self.in_flight.sent(asked.place.gateway, pod);
        pod
    }

    fn answered(&mut self, answer: &Answered) {
        self.in_flight.done(answer.place.gateway, answer.pod);
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
    use super::super::fleet::tests::{ask, end, idle, prompt, setting};
    use super::*;

    #[test]
    fn the_pod_that_answered_is_next() {
        let mut rule = LeastRequest::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let p = prompt(&[], 9);
        let mut first: Vec<usize> = (0..4).map(|n| ask(&mut rule, n, 0, &p, 0.0)).collect();
        let freed = first[2];
        end(&mut rule, 2, 0, freed, 1.0);
        assert_eq!(ask(&mut rule, 5, 0, &p, 1.0), freed);
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3]);
    }

    #[test]
    fn a_gateway_knows_nothing_of_another() {
        let mut rule = LeastRequest::new(&setting(4));
        rule.scraped(&idle(1), 0.0);
        for n in 0..5 {
            ask(&mut rule, n, 0, &prompt(&[], 9), 0.0);
        }
        assert_eq!((rule.in_flight.of(0)[0], rule.in_flight.of(1)[0]), (5, 0));
    }
}
