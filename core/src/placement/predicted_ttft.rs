//! Predicted time to first token: the endpoint that will answer soonest, in seconds.
//!
//! ```text
//! ttft(e) = overhead(e) + max(backlog(e), kv_wait(e), lateness(e)) + uncached(e) / prefill_rate(e)
//!         + foreign(e) x foreign_penalty + (adapter_load, if the adapter is elsewhere)
//! cost(e) = ttft(e) + uncached(e) / prefill_rate(e) x reuse x min(1, eviction_horizon / turnover(e)) + crowding(e)
//! ```
//!
//! The second line charges for what the placement does to others. Tokens computed anew push out as many, and where the
//! cache turns over fast, those would have been used again as likely as others are (`reuse`); without it a lightly loaded
//! pool sends everything to one pod. And where KV memory is nearly full, the next burst would have to wait.
//!
//! A prompt whose match ends where many that are in flight go different ways (after a system prompt, tools) starts a
//! conversation: nothing but the beginning is lost elsewhere, and computing it there serves all that follow. So where
//! another endpoint has at most half as many requests in flight, the shared beginning costs nothing. Without this the
//! first pod that is warm gets every conversation until its queue costs more than a cold start, and by then its
//! conversations have to leave it.
//!
//! Otherwise the warmest endpoint is left only when another is better by a ratio **and** by an absolute margin: one alone
//! herds or thrashes. Among endpoints within `tie_ratio` of the cheapest the one with the fewest requests in flight is
//! chosen; if that does not tell them apart, rendezvous hashing of the part of the prompt that nobody holds does, so that
//! VMs and replicas that have not yet heard of each other choose alike. It is weighted by the room in the caches.

use super::{Candidate, Candidates, Policy, Ranked, Reason};
use crate::units::{Seconds, Tokens, mix};
use std::cmp::Ordering;

/// The weights. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// What each request that is not ours adds.
    pub foreign_penalty: Seconds,
    /// What loading a LoRA adapter takes, where others have it loaded.
    pub adapter_load: Seconds,
    /// An entry that lives at least this long after its last use is worth nothing to keep.
    pub eviction_horizon: Seconds,
    /// The warmest is left when it costs more than the cheapest by this factor …
    pub spill_ratio: f64,
    /// … and by this much.
    pub spill_margin: Seconds,
    /// Candidates that cost at most this factor of the cheapest are equals.
    pub tie_ratio: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            foreign_penalty: Seconds(0.05),
            adapter_load: Seconds(0.5),
            eviction_horizon: Seconds(60.0),
            spill_ratio: 1.6,
            spill_margin: Seconds(0.4),
            tie_ratio: 1.05,
        }
    }
}

/// The policy. See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub struct PredictedTtft {
    /// Its weights.
    pub weights: Weights,
}

/// A difference in matched tokens smaller than one KV block is none.
const BLOCK: Tokens = Tokens(16);

/// What a prediction and a cost are made of; the module's text has the formula.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// No token of the prompt is the reason for it.
    pub overhead: Seconds,
    /// Prefills that come first.
    pub backlog: Seconds,
    /// Until it fits into the KV cache.
    pub kv_wait: Seconds,
    /// How late a first token is that was owed before.
    pub lateness: Seconds,
    /// Computing the part of the prompt that is not cached.
    pub prefill: Seconds,
    /// Requests that are not ours.
    pub foreign: Seconds,
    /// Loading the adapter.
    pub adapter: Seconds,
    /// Charge for what the prompt pushes out.
    pub eviction: Seconds,
    /// Charge for nearly full KV memory.
    pub crowding: Seconds,
    /// What is not charged, where a shared beginning is computed once more on purpose.
    pub spared: Seconds,
}

impl Terms {
    /// Time until the prefill begins: the waits pass at the same time, so the longest counts.
    #[must_use]
    pub fn wait(&self) -> Seconds {
        Seconds(larger(larger(self.backlog.0, self.kv_wait.0), self.lateness.0))
    }

    /// Predicted time to first token.
    #[must_use]
    pub fn predicted(&self) -> Seconds {
        Seconds(self.overhead.0 + self.wait().0 + self.prefill.0 + self.foreign.0 + self.adapter.0)
    }

    /// What endpoints are compared by.
    #[must_use]
    pub fn cost(&self) -> Seconds {
        Seconds(self.predicted().0 + self.eviction.0 + self.crowding.0 - self.spared.0)
    }
}

impl PredictedTtft {
    /// What the prediction for a candidate is made of. `warmest` is the candidate that holds most.
    #[must_use]
    pub fn terms(&self, c: &Candidate, warmest: Option<&Candidate>) -> Terms {
        let w = &self.weights;
        let seconds = |t: Tokens| if c.prefill_rate > 0.0 { t.0 as f64 / c.prefill_rate } else { 0.0 };
        let prefill = seconds(c.uncached);
        let evicts = c.turnover.map_or(0.0, |t| evicts(w.eviction_horizon, t)) * c.reuse;
        let spared =
            warmest.filter(|w| relieves(c.in_flight, w)).map_or(0.0, |w| seconds(w.matched.saturating_sub(c.matched)));
        Terms {
            overhead: c.overhead,
            backlog: c.backlog,
            kv_wait: c.kv.wait,
            lateness: c.lateness,
            prefill: Seconds(prefill),
            foreign: Seconds(f64::from(c.foreign) * w.foreign_penalty.0),
            adapter: if c.loads_adapter { w.adapter_load } else { Seconds(0.0) },
            eviction: Seconds(prefill * evicts),
            crowding: c.kv.crowding,
            spared: Seconds(spared),
        }
    }

    fn judge(&self, candidate: usize, c: &Candidate, warmest: Option<&Candidate>) -> Ranked {
        let terms = self.terms(c, warmest);
        Ranked {
            candidate,
            matched: c.matched,
            in_flight: c.in_flight,
            predicted: terms.predicted(),
            cost: terms.cost(),
            draw: None,
        }
    }
}

/// The larger of two numbers. [`f64::max`] takes four instructions more, for what is none; this is asked of every endpoint.
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// Whether what is evicted would have lived to be used again: 1 where entries live no longer than the horizon.
fn evicts(horizon: Seconds, turnover: Seconds) -> f64 {
    let share = horizon.0 / larger(turnover.0, 0.001);
    if share < 1.0 { share } else { 1.0 }
}

/// So many prompts in flight must go on from the end of a match for it to be a beginning in demand …
const SHARED: u32 = 4;
/// … or so many, if the other endpoint is as good as idle beside the warmest: one that has just joined, say.
const SOME: u32 = 2;

/// Whether an endpoint with so many requests in flight should take a new conversation off the warmest one.
fn relieves(in_flight: u32, warmest: &Candidate) -> bool {
    let (few, many) = (in_flight, warmest.in_flight);
    (warmest.sharing >= SHARED && few <= many >> 1) || (warmest.sharing >= SOME && many >= SHARED && few <= many >> 2)
}

/// An endpoint's number in the draw among equals: weighted rendezvous hashing (Mosko's form: each has
/// `-weight / ln u`, the largest wins), by the room in its cache.
fn drawn(c: &Candidate, novelty: u64) -> f64 {
    let u = ((mix(novelty, c.id.0) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -larger(c.room, LEAST_ROOM) / u.ln()
}

/// The weight of a full cache in the draw among equals.
const LEAST_ROOM: f64 = 0.05;

impl Policy for PredictedTtft {
    fn rank(&self, candidates: &impl Candidates, novelty: u64, best: usize, ranked: &mut Vec<Ranked>) -> Reason {
        ranked.clear();
        let Some(warmest) = candidates.warmest() else { return Reason::Fallback };
        let mut cheapest = f64::INFINITY;
        ranked.extend((0..candidates.count()).filter_map(|at| {
            let judged = self.judge(at, &candidates.get(at)?, Some(&warmest));
            cheapest = if judged.cost.0 < cheapest { judged.cost.0 } else { cheapest };
            Some(judged)
        }));
        let drawn = draw(candidates, novelty, cheapest * self.weights.tie_ratio, ranked);
        let most = warmest.matched;
        let holds_most = |r: &Ranked| most.saturating_sub(r.matched) < BLOCK;
        let numbered = || ranked.iter().enumerate();
        let first = match drawn {
            Some(at) => ranked.get(at).map(|r| (at, r)),
            None => numbered().min_by(|a, b| before(a.1, b.1)),
        };
        // Where nobody holds a block all are as warm as the first.
        let warm = if most < BLOCK {
            first
        } else {
            numbered().filter(|(_, r)| holds_most(r)).min_by(|a, b| before(a.1, b.1))
        };
        let (Some((first, one)), Some((warm, warmest_one))) = (first, warm) else { return Reason::Fallback };
        let dear = warmest_one.cost.0;
        let reason = if most < BLOCK {
            Reason::Cold
        } else if !holds_most(one) && relieves(one.in_flight, &warmest) {
            Reason::Spread
        } else if dear > cheapest * self.weights.spill_ratio && dear > cheapest + self.weights.spill_margin.0 {
            Reason::Spill
        } else {
            Reason::Warm
        };
        let chosen = if reason == Reason::Warm { warm } else { first };
        if let Some((first, others)) = ranked.split_first_mut() {
            if let Some(chosen) = chosen.checked_sub(1).and_then(|at| others.get_mut(at)) {
                std::mem::swap(first, chosen);
            }
            bring_forward(others, best.saturating_sub(1));
        }
        reason
    }
}

/// Puts the `best` first ones in order to the front. They are few, or all.
fn bring_forward(ranked: &mut [Ranked], best: usize) {
    let (front, rest) = ranked.split_at_mut(best.min(ranked.len()));
    front.sort_unstable_by(before);
    let Some(mut dearest) = front.last().copied() else { return };
    for other in rest {
        // Most are neither equals nor cheaper: one comparison for them.
        if (other.draw.is_some() || other.cost.0 <= dearest.cost.0)
            && before(other, &dearest).is_lt()
            && let Some(last) = front.last_mut()
        {
            std::mem::swap(last, other);
            front.sort_unstable_by(before);
            dearest = front.last().copied().unwrap_or(dearest);
        }
    }
}

/// Draws among those that cost at most `equal`. Returns where the winner is.
fn draw(candidates: &impl Candidates, novelty: u64, equal: f64, ranked: &mut [Ranked]) -> Option<usize> {
    let (mut fewest, mut equals) = (u32::MAX, 0..0);
    for (at, r) in ranked.iter_mut().enumerate().filter(|(_, r)| r.cost.0 <= equal) {
        r.draw = Some(0.0);
        fewest = fewest.min(r.in_flight);
        equals = if equals.is_empty() { at..at + 1 } else { equals.start..at + 1 };
    }
    let mut winner = None;
    let numbered = ranked.iter_mut().enumerate().take(equals.end).skip(equals.start);
    for (at, r) in numbered.filter(|(_, r)| r.draw.is_some() && r.in_flight == fewest) {
        let number = candidates.get(r.candidate).map_or(0.0, |c| drawn(&c, novelty));
        r.draw = Some(number);
        if winner.is_none_or(|(_, most)| number > most) {
            winner = Some((at, number));
        }
    }
    winner.map(|(at, _)| at)
}

/// The order: equals first, among themselves by the draw; then by cost.
fn before(a: &Ranked, b: &Ranked) -> Ordering {
    match (a.draw, b.draw) {
        (None, None) => a.cost.0.total_cmp(&b.cost.0),
        (Some(a_draw), Some(b_draw)) => a.in_flight.cmp(&b.in_flight).then(b_draw.total_cmp(&a_draw)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u32, matched: u64, backlog: f64) -> Candidate {
        Candidate { backlog: Seconds(backlog), ..Candidate::idle(n, matched) }
    }

    fn choose(candidates: &[Candidate], novelty: u64) -> (Reason, Vec<u32>) {
        let mut ranked = Vec::new();
        let reason = PredictedTtft::default().rank(&candidates, novelty, usize::MAX, &mut ranked);
        (reason, ranked.iter().map(|r| candidates[r.candidate].slot.0).collect())
    }

    #[test]
    fn the_warm_one_is_chosen() {
        assert_eq!(choose(&[candidate(0, 0, 0.0), candidate(1, 9_900, 0.0)], 1), (Reason::Warm, vec![1, 0]));
    }

    #[test]
    fn a_small_advantage_does_not_leave_the_warm_one() {
        // 1.03 s at the idle cold one, 1.05 s at the busy warm one.
        assert_eq!(choose(&[candidate(0, 0, 0.0), candidate(1, 9_900, 1.0)], 1).0, Reason::Warm);
    }

    #[test]
    fn a_busy_warm_one_is_left() {
        assert_eq!(choose(&[candidate(0, 0, 0.0), candidate(1, 9_900, 3.0)], 1), (Reason::Spill, vec![0, 1]));
    }

    #[test]
    fn cold_prompts_spread_and_equal_ones_meet() {
        let idle: Vec<_> = (0..4).map(|n| candidate(n, 0, 0.0)).collect();
        let mut firsts: Vec<_> = (0..100).map(|novelty| choose(&idle, novelty).1[0]).collect();
        assert_eq!(choose(&idle, 42).1, choose(&idle, 42).1);
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, [0, 1, 2, 3]);
        assert_eq!(choose(&idle, 3).0, Reason::Cold);
    }

    #[test]
    fn the_draw_among_equals_goes_by_load_then_by_room() {
        let mut idle: Vec<_> = (0..4).map(|n| candidate(n, 0, 0.0)).collect();
        idle[2].in_flight = 1;
        idle[3].room = 0.0;
        let firsts: Vec<_> = (0..300).map(|novelty| choose(&idle, novelty).1[0]).collect();
        let count = |n| firsts.iter().filter(|f| **f == n).count();
        assert_eq!(count(2), 0);
        assert!(count(0) > 90 && count(1) > 90 && (1..40).contains(&count(3)), "{}", count(3));
    }

    #[test]
    fn a_thrashing_cache_is_charged() {
        let mut full = candidate(0, 0, 0.0);
        full.turnover = Some(Seconds(10.0));
        let empty = candidate(1, 0, 0.2);
        for novelty in 0..20 {
            assert_eq!(choose(&[full, empty], novelty).1, [1, 0]);
        }
    }

    #[test]
    fn a_slow_endpoint_is_avoided() {
        let mut slow = candidate(0, 0, 0.0);
        slow.prefill_rate = 1000.0;
        for novelty in 0..20 {
            assert_eq!(choose(&[slow, candidate(1, 0, 0.5)], novelty).1[0], 1);
        }
    }

    #[test]
    fn an_adapter_that_is_loaded_elsewhere_is_not_loaded_once_more_for_little() {
        let without = Candidate { loads_adapter: true, ..candidate(0, 0, 0.0) };
        for novelty in 0..20 {
            assert_eq!(choose(&[without, candidate(1, 0, 0.4)], novelty).1, [1, 0]);
            assert_eq!(choose(&[without, candidate(1, 0, 1.2)], novelty).1, [0, 1]);
        }
    }

    #[test]
    fn a_busy_endpoint_gives_new_conversations_away_and_keeps_its_own() {
        let mut busy = candidate(1, 9_000, 0.0);
        busy.in_flight = 20;
        let idle = candidate(0, 0, 0.0);
        assert_eq!(choose(&[idle, busy], 1).0, Reason::Warm, "its own conversation goes on there");
        busy.sharing = 30;
        assert_eq!(choose(&[idle, busy], 1), (Reason::Spread, vec![0, 1]));
        let mut half = candidate(2, 0, 0.0);
        half.in_flight = 11;
        assert_eq!(choose(&[half, busy], 1).0, Reason::Warm, "not much less busy");
        busy.sharing = 3;
        assert_eq!(choose(&[idle, busy], 1), (Reason::Spread, vec![0, 1]), "beside an idle one");
        let mut third = candidate(3, 0, 0.0);
        third.in_flight = 6;
        assert_eq!(choose(&[third, busy], 1).0, Reason::Warm, "not in demand");
    }

    #[test]
    fn the_best_few_are_those_of_the_whole_order() {
        for seed in 0..200_u64 {
            let random = |n: u64| mix(seed, n) % 7;
            let all: Vec<_> = (0..12)
                .map(|n| Candidate {
                    in_flight: random(u64::from(n)) as u32,
                    ..candidate(n, random(u64::from(n) + 50) * 1000, random(u64::from(n) + 99) as f64 * 0.1)
                })
                .collect();
            let (mut whole, mut few) = (Vec::new(), Vec::new());
            let reason = PredictedTtft::default().rank(&all.as_slice(), seed, usize::MAX, &mut whole);
            assert_eq!(PredictedTtft::default().rank(&all.as_slice(), seed, 3, &mut few), reason);
            let costs = |ranked: &[Ranked]| ranked.iter().take(3).map(|r| (r.cost, r.draw)).collect::<Vec<_>>();
            assert_eq!((costs(&few), few.len()), (costs(&whole), whole.len()));
        }
    }

    #[test]
    fn nobody_to_choose_is_a_fallback() {
        assert_eq!(choose(&[], 1), (Reason::Fallback, vec![]));
    }
}
