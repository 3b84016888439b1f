//! llm-d's default profile: a weighted sum of queue, KV memory and prefix.
//!
//! Source: llm-d/llm-d-router (before: llm-d-inference-scheduler) ebab687 (2026-08-22, after v0.9.0).
//!
//! * `config/charts/routerlib/templates/_config.yaml`: weights queue-scorer 2, kv-cache-utilization-scorer 2,
//!   prefix-cache-scorer 3.
//! * `pkg/epp/framework/plugins/scheduling/scorer/queuedepth/queue.go`: (most - waiting) / (most - fewest), 1 if equal.
//! * `.../scorer/kvcacheutilization/kvcache_utilization.go`: 1 - KV usage.
//! * `.../scorer/prefix/plugin.go`: matched blocks / blocks of the prompt.
//! * `.../requestcontrol/dataproducer/approximateprefix`: blocks of 64 tokens (`minBlockSizeTokens`), at most 131,072
//!   tokens of a prompt (`defaultMaxPrefixTokens`), 31,250 blocks a pod (`defaultLRUCapacityPerServer`). A partial last
//!   block counts. Blocks are added first to last, so the first is the first to go, and a pod gets a point for each
//!   block it has up to the first that no pod has.
//! * `.../scheduling/picker/maxscore/picker.go`: the highest sum, any of equals.
//! * `pkg/epp/server/options.go`: metrics every 50 ms. Between two scrapes it does not see its own decisions.
//!
//! Each gateway has an endpoint picker of its own, which all its workers ask.

use super::blocks::{Lru, runs};
use super::fleet::{Fleet, lowest};
use super::{Asked, Policy, Scrape, Setting};
use crate::replay::workload::Prompt;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Seconds between two scrapes.
pub const SCRAPE: f64 = 0.05;
/// Tokens in a block of the index.
pub const INDEX_BLOCK: u32 = 64;
const MAX_BLOCKS: u32 = 131_072 / INDEX_BLOCK;
const CAPACITY: u64 = 31_250;
const QUEUE: f64 = 2.0;
const KV: f64 = 2.0;
const PREFIX: f64 = 3.0;

/// The approximate prefix index of one endpoint picker.
pub struct Index {
    pods: Vec<Lru>,
    /// Blocks that each pod matched at the last look.
    pub matched: Vec<u32>,
    /// Blocks that the prompt of the last look has.
    pub total: u32,
}

impl Index {
    /// An empty one.
    pub fn new(pods: usize) -> Self {
        Self { pods: (0..pods).map(|_| Lru::new(CAPACITY)).collect(), matched: vec![0; pods], total: 0 }
    }

    /// Looks a prompt up.
    pub fn look(&mut self, prompt: &Prompt) {
        self.total = prompt.tokens.div_ceil(INDEX_BLOCK).min(MAX_BLOCKS);
        self.matched.fill(0);
        for (segment, run) in runs(prompt, INDEX_BLOCK, MAX_BLOCKS) {
            let mut most = 0;
            for (pod, matched) in self.pods.iter().zip(&mut self.matched) {
                let held = pod.holds(segment);
                *matched += held;
                most = most.max(held);
            }
            // Of a run the first blocks go first. If they are gone everywhere, the look ended there.
            if most < run {
                for (pod, matched) in self.pods.iter().zip(&mut self.matched) {
                    *matched -= pod.holds(segment);
                }
                break;
            }
        }
    }

    /// The share of the last prompt that a pod matched.
    pub fn share(&self, pod: usize) -> f64 {
        f64::from(self.matched[pod]) / f64::from(self.total.max(1))
    }

    /// A pod gets a prompt.
    pub fn add(&mut self, pod: usize, prompt: &Prompt) {
        for (segment, run) in runs(prompt, INDEX_BLOCK, MAX_BLOCKS) {
            self.pods[pod].touch(segment, run);
        }
    }

    /// The pod is gone, or another is in its place.
    pub fn forget(&mut self, pod: usize) {
        self.pods[pod].clear();
    }
}

/// See the module's text.
pub struct LlmD {
    fleet: Fleet,
    gateways: Vec<Index>,
    believed: u64,
    rng: SmallRng,
}

impl LlmD {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self {
            fleet: Fleet::default(),
            gateways: (0..setting.gateways).map(|_| Index::new(setting.pods)).collect(),
            believed: 0,
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }
}

impl Policy for LlmD {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let index = &mut self.gateways[asked.place.gateway];
        index.look(asked.prompt);
        let fleet = &self.fleet;
        let waiting = || fleet.choosable().iter().map(|p| fleet.pod(*p).waiting);
        let (fewest, most) = (waiting().min().unwrap_or(0), waiting().max().unwrap_or(0));
        let score = |p: usize| {
            let pod = fleet.pod(p);
            let queue = if most == fewest { 1.0 } else { f64::from(most - pod.waiting) / f64::from(most - fewest) };
            QUEUE * queue + KV * (1.0 - pod.kv_usage).clamp(0.0, 1.0) + PREFIX * index.share(p)
        };
        let pod = lowest(fleet.choosable(), &mut self.rng, |p| -score(p));
        self.believed = u64::from(index.matched[pod] * INDEX_BLOCK);
        index.add(pod, asked.prompt);
        pod
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let gateways = &mut self.gateways;
        self.fleet.update(pods, |pod| gateways.iter_mut().for_each(|g| g.forget(pod)));
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

    #[test]
    fn a_full_match_outweighs_a_queue_but_not_queue_and_memory() {
        let mut rule = LlmD::new(&setting(4));
        let mut pods = idle(4);
        rule.scraped(&pods, 0.0);
        let p = prompt(&[(1, 6400)], 0);
        let pod = ask(&mut rule, 0, 0, &p, 0.0);
        pods[pod].waiting = 9;
        pods[pod].kv_usage = 0.4;
        rule.scraped(&pods, 0.05);
        assert_eq!((ask(&mut rule, 1, 0, &p, 0.1), rule.believed()), (pod, Some(6400)));
        pods[pod].kv_usage = 0.6;
        rule.scraped(&pods, 0.1);
        assert_ne!(ask(&mut rule, 2, 0, &p, 0.1), pod);
    }

    #[test]
    fn it_sees_no_decision_before_the_next_scrape() {
        let mut rule = LlmD::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let p = prompt(&[(1, 6400)], 0);
        let pod = ask(&mut rule, 0, 0, &p, 0.0);
        assert!((1..50).all(|n| ask(&mut rule, n, 0, &p, 0.0) == pod));
    }

    #[test]
    fn gateways_have_an_index_each() {
        let mut rule = LlmD::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        ask(&mut rule, 0, 0, &prompt(&[(1, 6400)], 0), 0.0);
        ask(&mut rule, 1, 1, &prompt(&[(1, 6400)], 0), 0.0);
        assert_eq!(rule.believed(), Some(0));
    }

    #[test]
    fn a_look_ends_at_the_first_block_that_nobody_has() {
        let mut index = Index::new(2);
        let long = |id| prompt(&[(id, 64 * 20_000)], 0);
        // Only the first 2,048 blocks of a prompt count.
        index.look(&long(9));
        assert_eq!(index.total, 2048);
        // 31,250 blocks: the sixteenth prompt of 2,048 pushes out the first blocks of the first.
        (0..16).for_each(|id| index.add(0, &long(id)));
        index.look(&long(0));
        assert_eq!(index.matched, [0, 0]);
        index.look(&long(1));
        assert_eq!(index.matched, [2048, 0]);
        // Another pod that has them lets the look go on: the first pod gets points for what is left.
        index.add(1, &long(0));
        index.look(&long(0));
        assert_eq!(index.matched, [2048 - (16 * 2048 - 31_250), 2048]);
    }
}
