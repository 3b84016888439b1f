//! What the rules share: the pods of the last scrape, requests in flight, and the choice of the lowest.

use super::Scrape;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Seconds between two health checks of the rules that read no metrics.
pub const HEALTH: f64 = 1.0;

/// The last scrape.
#[derive(Default)]
pub struct Fleet {
    pods: Vec<Scrape>,
    choosable: Vec<usize>,
}

impl Fleet {
    /// Takes a scrape. `changed` hears of pods that restarted or are gone: what a rule believed of them is void. A rule
    /// that names pods by address sees a new pod there.
    pub fn update(&mut self, pods: &[Scrape], mut changed: impl FnMut(usize)) {
        for (pod, (old, new)) in self.pods.iter().zip(pods).enumerate() {
            if old.incarnation != new.incarnation || (old.present && !new.present) {
                changed(pod);
            }
        }
        self.pods.clear();
        self.pods.extend_from_slice(pods);
        self.choosable.clear();
        self.choosable.extend((0..pods.len()).filter(|p| pods[*p].choosable));
    }

    /// Pods that may be chosen, in their order.
    pub fn choosable(&self) -> &[usize] {
        &self.choosable
    }

    /// Whether a pod may be chosen.
    pub fn can_choose(&self, pod: usize) -> bool {
        self.pods.get(pod).is_some_and(|p| p.choosable)
    }

    /// What the last scrape said of a pod.
    pub fn pod(&self, pod: usize) -> &Scrape {
        &self.pods[pod]
    }
}

/// Requests in flight by pod, as each of several places counts its own.
pub struct InFlight {
    pods: usize,
    counts: Vec<u32>,
}

impl InFlight {
    /// None in flight.
    pub fn new(places: usize, pods: usize) -> Self {
        Self { pods, counts: vec![0; places * pods] }
    }

    /// One more.
    pub fn sent(&mut self, place: usize, pod: usize) {
        self.counts[place * self.pods + pod] += 1;
    }

    /// One less.
    pub fn done(&mut self, place: usize, pod: usize) {
        let count = &mut self.counts[place * self.pods + pod];
        *count = count.saturating_sub(1);
    }

    /// Of all pods.
    pub fn of(&self, place: usize) -> &[u32] {
        &self.counts[place * self.pods..][..self.pods]
    }
}

/// The pod with the lowest key, any of them if there are more. Without pods: the first.
pub fn lowest<K: PartialOrd>(pods: &[usize], rng: &mut SmallRng, mut key: impl FnMut(usize) -> K) -> usize {
    let mut best: Option<(usize, K)> = None;
    let mut ties = 1;
    for &pod in pods {
        let k = key(pod);
        match &best {
            Some((_, b)) if k > *b => {}
            Some((_, b)) if k == *b => {
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    best = Some((pod, k));
                }
            }
            _ => {
                best = Some((pod, k));
                ties = 1;
            }
        }
    }
    best.map_or(0, |(pod, _)| pod)
}

#[cfg(test)]
pub mod tests {
    use super::super::{Answered, Asked, Place, Policy, Setting};
    use super::*;
    use crate::replay::workload::{Prompt, Segment};
    use rand::SeedableRng;
    use warmpath_core::config::Config;

    /// Two gateways of two workers.
    pub fn setting(pods: usize) -> Setting {
        Setting {
            gateways: 2,
            workers: 2,
            gossip: f64::INFINITY,
            pods,
            capacity: 100_000,
            prefill_rate: 10_000.0,
            seed: 7,
            config: Config::default(),
        }
    }

    /// Idle pods that may be chosen.
    pub fn idle(pods: usize) -> Vec<Scrape> {
        vec![Scrape { present: true, choosable: true, ..Scrape::default() }; pods]
    }

    /// A prompt of these (id, tokens), and more tokens that are its own.
    pub fn prompt(segments: &[(u32, u32)], more: u32) -> Prompt {
        let tokens = segments.iter().map(|s| s.1).sum::<u32>() + more;
        let segments = segments.iter().map(|&(id, tokens)| Segment { id, tokens }).collect();
        Prompt { segments, tokens, bytes: tokens * 4, boundaries: Vec::new() }
    }

    /// Asks a rule at the first worker of a gateway.
    pub fn ask(rule: &mut impl Policy, number: usize, gateway: usize, prompt: &Prompt, now: f64) -> usize {
        rule.choose(&Asked { number, place: Place { gateway, worker: 0 }, prompt, now })
    }

    /// Ends a request of [`ask`].
    pub fn end(rule: &mut impl Policy, number: usize, gateway: usize, pod: usize, now: f64) {
        let place = Place { gateway, worker: 0 };
        rule.answered(&Answered { number, place, pod, prompt: 1000, cached: 0, output: 100, now });
    }

    #[test]
    fn the_lowest_wins_and_ties_are_random() {
        let mut rng = SmallRng::seed_from_u64(1);
        let keys = [3, 1, 2, 1];
        let mut seen = [0; 4];
        for _ in 0..100 {
            seen[lowest(&[0, 1, 2, 3], &mut rng, |p| keys[p])] += 1;
        }
        assert!(seen[0] == 0 && seen[2] == 0 && seen[1] > 20 && seen[3] > 20, "{seen:?}");
        assert_eq!(lowest(&[0, 2], &mut rng, |p| keys[p]), 2);
    }

    #[test]
    fn a_restart_and_a_leave_are_changes() {
        let (mut fleet, mut pods, mut changed) = (Fleet::default(), idle(3), Vec::new());
        fleet.update(&pods, |p| changed.push(p));
        pods[0].incarnation = 1;
        pods[1].choosable = false;
        (pods[2].choosable, pods[2].present) = (false, false);
        fleet.update(&pods, |p| changed.push(p));
        assert_eq!((changed, fleet.choosable()), (vec![0, 2], &[0][..]));
    }
}
