//! Preble's E2: exploit a cached prefix if it is longer than what is left to compute, else explore by cost.
//!
//! Source: Srivatsa et al., «Preble: Efficient Distributed Prompt Scheduling for LLM Serving» (arXiv 2407.00023, ICLR
//! 2025), section 3.2, and WukLab/preble 8e7906a, `preble/global_scheduler_with_time.py`.
//!
//! * Exploit, if more tokens are cached at a pod than are left (`num_tokens < context_so_far`): of the pods with the
//!   longest match, the one with the lowest load.
//! * Else explore: the pod with the lowest load + eviction cost + cost of this prefill.
//! * Load: seconds of prefill sent to the pod within the window of 3 minutes, and seconds of decode of those in flight
//!   (requests × mean output × median time per output token of the last 200 answers).
//! * Eviction cost: what this prompt would push out, oldest first; each piece costs its prefill time as often as it was
//!   asked for within the window.
//! * Rebalancing: if the pod to exploit has the highest load, and that is more than `HIGH_LOAD_THRESHOLD` = 1.5 × the
//!   lowest, the pod with the lowest load gets the request, once 50 requests a pod have been sent.
//!
//! Prefill time is tokens / the pods' rate, instead of the regression that Preble measures for each model and GPU.
//! Preble is one global scheduler: all gateways share this state. Its memory of a pod has the pod's true capacity, in
//! blocks of 16 tokens, deepest out first; eviction is its own guess, where Preble's engines report it.
//!
//! Left out: replication of a prefix whose time to the first token doubles within the window (rebalancing copies hot
//! prefixes too), the mixing of prefill-heavy with decode-heavy requests, and the priorities inside an engine. The code
//! has the eviction cost behind a switch that is off; the paper has it always.

use super::blocks::Prefixes;
use super::fleet::{Fleet, HEALTH, InFlight, lowest};
use super::{Answered, Asked, Place, Policy, Scrape, Setting};
use crate::replay::cache::IntMap;
use crate::replay::workload::BLOCK;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{HashMap, VecDeque};

/// Seconds.
const WINDOW: f64 = 180.0;
const HIGH_LOAD: f64 = 1.5;
/// Requests a pod before rebalancing starts.
const WARMUP: usize = 50;
/// Answers whose output and pace are remembered.
const ANSWERS: usize = 200;
/// Seconds per output token before the first answer.
const FIRST_PACE: f64 = 0.15;

/// One request of the window.
struct Sent {
    at: f64,
    pod: usize,
    prefill: f64,
    segments: Box<[u32]>,
}

/// What answers tell: the mean output, and the median pace.
#[derive(Default)]
struct Pace {
    outputs: VecDeque<u32>,
    paces: VecDeque<f64>,
    /// Seconds of decode that a request in flight is expected to take.
    decode: f64,
}

impl Pace {
    fn add(&mut self, output: u32, pace: Option<f64>) {
        if self.outputs.len() == ANSWERS {
            self.outputs.pop_front();
        }
        self.outputs.push_back(output);
        if let Some(pace) = pace {
            if self.paces.len() == ANSWERS {
                self.paces.pop_front();
            }
            self.paces.push_back(pace);
        }
        let mean = self.outputs.iter().map(|o| f64::from(*o)).sum::<f64>() / self.outputs.len() as f64;
        let mut sorted: Vec<f64> = self.paces.iter().copied().collect();
        let middle = sorted.len() / 2;
        let median = match sorted.is_empty() {
            true => FIRST_PACE,
            false => *sorted.select_nth_unstable_by(middle, f64::total_cmp).1,
        };
        self.decode = mean * median;
    }
}

/// See the module's text.
pub struct Preble {
    fleet: Fleet,
    in_flight: InFlight,
    prefixes: Prefixes,
    prefill_rate: f64,
    window: VecDeque<Sent>,
    /// By pod: seconds of prefill in the window, and how often each segment was asked for in it.
    prefill: Vec<f64>,
    asked: Vec<IntMap<u32>>,
    sent: usize,
    first_tokens: HashMap<usize, f64>,
    pace: Pace,
    matched: Vec<u32>,
    loads: Vec<f64>,
    costs: Vec<f64>,
    exploited: Vec<usize>,
    believed: u64,
    rng: SmallRng,
}

impl Preble {
    /// For this setting.
    pub fn new(setting: &Setting) -> Self {
        Self {
            fleet: Fleet::default(),
            in_flight: InFlight::new(1, setting.pods),
            prefixes: Prefixes::new(setting.pods, setting.capacity),
            prefill_rate: setting.prefill_rate,
            window: VecDeque::new(),
            prefill: vec![0.0; setting.pods],
            asked: (0..setting.pods).map(|_| IntMap::default()).collect(),
            sent: 0,
            first_tokens: HashMap::new(),
            pace: Pace::default(),
            matched: vec![0; setting.pods],
            loads: vec![0.0; setting.pods],
            costs: vec![0.0; setting.pods],
            exploited: Vec::new(),
            believed: 0,
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }

    /// Drops what is older than the window.
    fn slide(&mut self, now: f64) {
        while let Some(sent) = self.window.pop_front_if(|s| s.at < now - WINDOW) {
            self.prefill[sent.pod] -= sent.prefill;
            for id in &sent.segments {
                if let Some(count) = self.asked[sent.pod].get_mut(id) {
                    *count -= 1;
                    if *count == 0 {
                        self.asked[sent.pod].remove(id);
                    }
                }
            }
        }
    }

    fn eviction_cost(&self, pod: usize, missed: u32) -> f64 {
        let lru = self.prefixes.pod(pod);
        let mut blocks = u64::from(missed.div_ceil(BLOCK)).saturating_sub(lru.room());
        let mut tokens = 0.0;
        for (segment, held) in lru.oldest() {
            if blocks == 0 {
                break;
            }
            let gone = blocks.min(u64::from(held));
            blocks -= gone;
            let asked = self.asked[pod].get(&segment).copied().unwrap_or(0);
            tokens += gone as f64 * f64::from(BLOCK) * f64::from(asked);
        }
        tokens / self.prefill_rate
    }

    fn exploit(&mut self, longest: u32) -> usize {
        let pods = self.fleet.choosable();
        self.exploited.clear();
        self.exploited.extend(pods.iter().filter(|p| self.matched[**p] == longest));
        let pod = lowest(&self.exploited, &mut self.rng, |p| self.loads[p]);
        let lightest = lowest(pods, &mut self.rng, |p| self.loads[p]);
        let heaviest = pods.iter().all(|p| self.loads[*p] <= self.loads[pod]);
        let warm = self.sent >= WARMUP * pods.len();
        if warm && heaviest && self.loads[pod] > HIGH_LOAD * self.loads[lightest] { lightest } else { pod }
    }
}

impl Policy for Preble {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        self.slide(asked.now);
        let tokens = asked.prompt.tokens;
        let in_flight = self.in_flight.of(0);
        for &pod in self.fleet.choosable() {
            self.matched[pod] = self.prefixes.matched(pod, asked.prompt);
            self.loads[pod] = self.prefill[pod].max(0.0) + f64::from(in_flight[pod]) * self.pace.decode;
        }
        let longest = self.fleet.choosable().iter().map(|p| self.matched[*p]).max().unwrap_or(0);
        let pod = if longest > tokens - longest {
            self.exploit(longest)
        } else {
            for i in 0..self.fleet.choosable().len() {
                let p = self.fleet.choosable()[i];
                let missed = tokens - self.matched[p];
                self.costs[p] = self.loads[p] + self.eviction_cost(p, missed) + f64::from(missed) / self.prefill_rate;
            }
            lowest(self.fleet.choosable(), &mut self.rng, |p| self.costs[p])
        };
        let prefill = f64::from(tokens - self.matched[pod]) / self.prefill_rate;
        let segments: Box<[u32]> = asked.prompt.segments.iter().map(|s| s.id).collect();
        for id in &segments {
            *self.asked[pod].entry(*id).or_default() += 1;
        }
        self.prefill[pod] += prefill;
        self.window.push_back(Sent { at: asked.now, pod, prefill, segments });
        self.sent += 1;
        self.believed = u64::from(self.matched[pod]);
        self.prefixes.add(pod, asked.prompt);
        self.in_flight.sent(0, pod);
        pod
    }

    fn first_token(&mut self, number: usize, _place: Place, _pod: usize, _ttft: f64, now: f64) {
        self.first_tokens.insert(number, now);
    }

    fn answered(&mut self, answer: &Answered) {
        self.in_flight.done(0, answer.pod);
        let began = self.first_tokens.remove(&answer.number).filter(|_| answer.output > 1);
        let pace = began.map(|at| (answer.now - at) / f64::from(answer.output - 1));
        self.pace.add(answer.output, pace);
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let prefixes = &mut self.prefixes;
        self.fleet.update(pods, |pod| prefixes.forget(pod));
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
    use super::super::fleet::tests::{ask, end, idle, prompt, setting};
    use super::*;

    #[test]
    fn it_exploits_only_what_is_longer_than_the_rest() {
        let mut rule = Preble::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 640)], 0), 0.0);
        assert_eq!(ask(&mut rule, 1, 1, &prompt(&[(1, 640), (2, 624)], 0), 0.0), pod);
        assert_eq!(rule.believed(), Some(640));
        // As long: explored, and the others have no load, which is cheaper by 1,264 tokens than the match is by 640.
        assert_ne!(ask(&mut rule, 2, 0, &prompt(&[(1, 640), (3, 640)], 0), 0.0), pod);
    }

    #[test]
    fn exploring_weighs_a_match_against_load() {
        let mut rule = Preble::new(&setting(2));
        rule.scraped(&idle(2), 0.0);
        let a = ask(&mut rule, 0, 0, &prompt(&[(1, 640)], 0), 0.0);
        let b = ask(&mut rule, 1, 0, &prompt(&[(9, 608)], 0), 0.0);
        assert_ne!(a, b);
        // 640 + 700 there, 608 + 1,340 here.
        assert_eq!(ask(&mut rule, 2, 0, &prompt(&[(1, 640), (2, 688)], 12), 0.0), a);
    }

    #[test]
    fn load_leaves_the_window_after_three_minutes() {
        let mut rule = Preble::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 6400)], 0), 0.0);
        assert!((rule.prefill[pod] - 0.64).abs() < 1e-9);
        rule.slide(180.0);
        assert!(rule.prefill[pod] > 0.5);
        rule.slide(180.1);
        assert!(rule.prefill[pod].abs() < 1e-9 && rule.asked[pod].is_empty());
    }

    #[test]
    fn eviction_costs_what_is_still_asked_for() {
        let mut rule = Preble::new(&setting(1));
        rule.scraped(&idle(1), 0.0);
        for n in 0..3 {
            ask(&mut rule, n, 0, &prompt(&[(1, 64_000)], 0), n as f64);
        }
        ask(&mut rule, 3, 0, &prompt(&[(2, 32_000)], 0), 4.0);
        // 4,000 tokens are free; 6,000 of the first go, asked for three times.
        assert!((rule.eviction_cost(0, 10_000) - 1.8).abs() < 1e-9);
        rule.slide(400.0);
        assert!(rule.eviction_cost(0, 10_000).abs() < 1e-9);
    }

    #[test]
    fn a_hot_prefix_is_copied_once_the_load_is_uneven() {
        let mut rule = Preble::new(&setting(2));
        rule.scraped(&idle(2), 0.0);
        let hot = |n: usize| prompt(&[(1, 640), (n as u32 + 2, 320)], 0);
        let pods: Vec<usize> = (0..130).map(|n| ask(&mut rule, n, 0, &hot(n), 0.0)).collect();
        assert!(pods[..100].iter().all(|p| *p == pods[0]));
        let other = pods[100..].iter().filter(|p| **p != pods[0]).count();
        assert!(other > 20, "{other}");
    }

    #[test]
    fn requests_in_flight_count_by_what_answers_took() {
        let mut rule = Preble::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let pod = ask(&mut rule, 0, 0, &prompt(&[(1, 64)], 0), 0.0);
        rule.first_token(0, Place { gateway: 0, worker: 0 }, pod, 0.1, 0.1);
        end(&mut rule, 0, 0, pod, 2.08);
        // 100 tokens, 0.02 s each.
        assert!((rule.pace.decode - 2.0).abs() < 1e-9);
    }
}
