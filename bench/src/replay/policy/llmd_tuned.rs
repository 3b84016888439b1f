//! llm-d's tuned profile: stay with the pods that hold the prompt, and of these take the one with the fewest uncached
//! tokens in flight.
//!
//! Source: llm-d/llm-d 0a3b0c9, `guides/optimized-baseline/router/optimized-baseline.values.yaml` (a filter and a
//! scorer, in this order), on llm-d/llm-d-router ebab687 (2026-08-22, after v0.9.0):
//!
//! * `pkg/epp/framework/plugins/scheduling/filter/prefixcacheaffinity/plugin.go`: keep the pods that match at least
//!   `affinityThreshold` = 0.8 of the prompt's blocks, if there are any, unless the first token is expected
//!   `maxTTFTPenaltyMs` = 18,000 ms later at the best of them than at the best other pod. It is expected after the
//!   tokens in flight / `peakPrefillThroughput`, which each deployment measures: here the pods' own rate.
//!   `explorationProbability` = 0.
//! * `.../scheduling/scorer/tokenload/token_load.go`: tokens in flight and the uncached ones of this request, up to
//!   `queueThresholdTokens` = 4,194,304.
//! * `.../requestcontrol/dataproducer/inflightload/producer.go`: tokens in flight are the uncached ones of prompts that
//!   were sent and have no first token yet (`addEstimatedOutputTokens` = false).
//! * Index and picker as in `llmd.rs`.
//!
//! Answers are streams: tokens go off at the first token, and at the end where none was seen.

use super::fleet::{Fleet, lowest};
use super::llmd::{INDEX_BLOCK, Index, SCRAPE};
use super::{Answered, Asked, Place, Policy, Scrape, Setting};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::HashMap;

const AFFINITY: f64 = 0.8;
/// Seconds.
const PENALTY: f64 = 18.0;
const THRESHOLD: u64 = 4_194_304;

struct Gateway {
    index: Index,
    /// Uncached tokens in flight by pod.
    tokens: Vec<u64>,
}

/// See the module's text.
pub struct LlmDTuned {
    fleet: Fleet,
    gateways: Vec<Gateway>,
    prefill_rate: f64,
    /// Requests without a first token: the pod and what was added to it.
    unstarted: HashMap<usize, (usize, u64)>,
    kept: Vec<usize>,
    believed: u64,
    rng: SmallRng,
}

impl LlmDTuned {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        let gateway = |_| Gateway { index: Index::new(setting.pods), tokens: vec![0; setting.pods] };
        Self {
            fleet: Fleet::default(),
            gateways: (0..setting.gateways).map(gateway).collect(),
            prefill_rate: setting.prefill_rate,
            unstarted: HashMap::new(),
            kept: Vec::new(),
            believed: 0,
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }

    fn release(&mut self, number: usize, gateway: usize) {
        if let Some((pod, tokens)) = self.unstarted.remove(&number) {
            let held = &mut self.gateways[gateway].tokens[pod];
            *held = held.saturating_sub(tokens);
        }
    }
}

impl Policy for LlmDTuned {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let gateway = &mut self.gateways[asked.place.gateway];
        let (index, tokens) = (&mut gateway.index, &mut gateway.tokens);
        index.look(asked.prompt);
        let choosable = self.fleet.choosable();
        let sticky = |p: &usize| index.share(*p) >= AFFINITY;
        let least = |sticks: bool| choosable.iter().filter(|p| sticky(p) == sticks).map(|p| tokens[*p]).min();
        self.kept.clear();
        match (least(true), least(false)) {
            (Some(s), Some(other)) if (s as f64 - other as f64) / self.prefill_rate <= PENALTY => {
                self.kept.extend(choosable.iter().filter(|p| sticky(p)));
            }
            _ => self.kept.extend(choosable),
        }
        let uncached = |p: usize| {
            let indexed = u64::from((index.total - index.matched[p]) * INDEX_BLOCK);
            indexed + u64::from(asked.prompt.tokens.saturating_sub(index.total * INDEX_BLOCK))
        };
        let pod = lowest(&self.kept, &mut self.rng, |p| (tokens[p] + uncached(p)).min(THRESHOLD));
        let added = uncached(pod);
        tokens[pod] += added;
        self.believed = u64::from(index.matched[pod] * INDEX_BLOCK);
        index.add(pod, asked.prompt);
        self.unstarted.insert(asked.number, (pod, added));
        pod
    }

    fn first_token(&mut self, number: usize, place: Place, _pod: usize, _ttft: f64, _now: f64) {
        self.release(number, place.gateway);
    }

    fn answered(&mut self, answer: &Answered) {
        self.release(answer.number, answer.place.gateway);
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let gateways = &mut self.gateways;
        self.fleet.update(pods, |pod| gateways.iter_mut().for_each(|g| g.index.forget(pod)));
    }

    fn scrape_interval(&self) -> f64 {
        SCRAPE
    }

    fn believed(&self) -> Option<u64> {
        Some(self.believed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{ask, idle, prompt, setting};
    use super::*;

    const PLACE: Place = Place { gateway: 0, worker: 0 };

    #[test]
    fn four_fifths_stick_and_less_does_not() {
        let mut rule = LlmDTuned::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 6400)], 0), 0.0);
        // 6,400 tokens are in flight there, yet 100 of 125 blocks are its own.
        assert_eq!(ask(&mut rule, 1, 0, &prompt(&[(1, 6400), (2, 1600)], 0), 0.0), pod);
        assert_eq!(rule.believed(), Some(6400));
        // 100 of 126: the others have nothing in flight.
        assert_ne!(ask(&mut rule, 2, 0, &prompt(&[(1, 6400), (3, 1664)], 0), 0.0), pod);
    }

    #[test]
    fn tokens_are_in_flight_until_the_first_token() {
        let mut rule = LlmDTuned::new(&setting(4));
        rule.scraped(&idle(2), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 6400)], 0), 0.0);
        assert_eq!(ask(&mut rule, 1, 0, &prompt(&[(2, 640)], 0), 0.0), 1 - pod);
        rule.first_token(0, PLACE, pod, 0.1, 0.1);
        assert_eq!(ask(&mut rule, 2, 0, &prompt(&[(3, 64)], 0), 0.2), pod);
        assert_eq!(rule.gateways[0].tokens.iter().sum::<u64>(), 640 + 64);
    }

    #[test]
    fn a_queue_of_eighteen_seconds_breaks_the_bond() {
        let mut rule = LlmDTuned::new(&setting(4));
        rule.scraped(&idle(2), 0.0);
        let hot = prompt(&[(1, 64)], 0);
        let pod = ask(&mut rule, 0, 0, &hot, 0.0);
        rule.gateways[0].tokens[pod] = 180_000;
        assert_eq!(ask(&mut rule, 1, 0, &hot, 0.0), pod);
        rule.gateways[0].tokens[pod] = 180_001;
        assert_ne!(ask(&mut rule, 2, 0, &hot, 0.0), pod);
    }
}
