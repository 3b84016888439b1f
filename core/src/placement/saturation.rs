//! When an endpoint has enough, and what happens to a request when all have.
//!
//! An endpoint over one of the limits gets no request while another is below them, whatever is cached where. When all are
//! over them, a request waits at the best all the same or is refused, by the configuration and by its priority. Without
//! limits (the default) nothing is ever saturated: placement in seconds needs none.

use super::{Candidate, Candidates, Ranked};
use crate::units::Seconds;

/// What an endpoint may have. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Requests that wait there.
    pub waiting: Option<u32>,
    /// Share of its KV cache that requests in flight hold, this one included; 1 is all of it.
    pub kv_usage: Option<f64>,
    /// Predicted time to first token.
    pub ttft: Option<Seconds>,
}

impl Limits {
    /// Whether an endpoint is over `share` of a limit. `predicted`: the request's time to first token there. One that has
    /// nothing to do never is: a prompt that takes long by itself would find no place, and what was learned wrong from a
    /// slow first answer would never be put right.
    #[must_use]
    pub fn are_exceeded(&self, share: f64, candidate: &Candidate, predicted: Seconds) -> bool {
        if candidate.in_flight == 0 && candidate.foreign == 0 {
            return false;
        }
        self.waiting.is_some_and(|most| f64::from(candidate.waiting) > f64::from(most) * share)
            || self.kv_usage.is_some_and(|most| candidate.kv.full > most * share)
            || self.ttft.is_some_and(|most| predicted.0 > most.0 * share)
    }
}

/// What happens to a request of normal priority when all endpoints are over the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenSaturated {
    /// It waits at the endpoint that should answer soonest.
    #[default]
    Queue,
    /// It is refused: 429.
    Reject,
}

/// How much a request matters: negative is low (may be refused first), positive is high (never refused), as the
/// `priority` of an InferenceObjective in the Gateway API Inference Extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority(pub i64);

impl Priority {
    /// What a header says; 0 where that is no whole number.
    #[must_use]
    pub fn of(header: &str) -> Self {
        Self(header.trim().parse().unwrap_or(0))
    }
}

/// The rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saturation {
    /// The limits.
    pub limits: Limits,
    /// When all are over them.
    pub then: WhenSaturated,
    /// Requests of low priority are refused when all endpoints are over this share of the limits.
    pub low_priority_share: f64,
}

impl Default for Saturation {
    fn default() -> Self {
        Self { limits: Limits::default(), then: WhenSaturated::default(), low_priority_share: 0.8 }
    }
}

/// What the limits did to a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The best is below the limits, or all are over them and it is the best all the same.
    Kept,
    /// The best was over them; another is the first now.
    Moved,
    /// The request is to be refused.
    Shed,
}

impl Saturation {
    /// Whether anything can be saturated.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        self.limits != Limits::default()
    }

    /// Puts endpoints below the limits before those over them, each group in its order, and says whether to refuse.
    pub fn apply(&self, candidates: &impl Candidates, ranked: &mut [Ranked], priority: Priority) -> Outcome {
        if !self.has_limits() || ranked.is_empty() {
            return Outcome::Kept;
        }
        let over = |r: &Ranked, share: f64| {
            candidates.get(r.candidate).is_some_and(|c| self.limits.are_exceeded(share, &c, r.predicted))
        };
        let low = priority.0 < 0;
        if low && ranked.iter().all(|r| over(r, self.low_priority_share)) {
            return Outcome::Shed;
        }
        if ranked.iter().all(|r| over(r, 1.0)) {
            let refused = self.then == WhenSaturated::Reject && priority.0 <= 0;
            return if refused { Outcome::Shed } else { Outcome::Kept };
        }
        let best = ranked.first().map(|r| r.candidate);
        let (over, below): (Vec<Ranked>, Vec<Ranked>) = ranked.iter().partition(|r| over(r, 1.0));
        for (place, next) in ranked.iter_mut().zip(below.into_iter().chain(over)) {
            *place = next;
        }
        if ranked.first().map(|r| r.candidate) == best { Outcome::Kept } else { Outcome::Moved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Policy, PredictedTtft};
    use crate::view::KvPressure;

    fn candidate(n: u32, matched: u64, waiting: u32) -> Candidate {
        let kv = KvPressure { full: 0.5, ..KvPressure::default() };
        Candidate { kv, in_flight: waiting, waiting, ..Candidate::idle(n, matched) }
    }

    fn apply(rule: Saturation, candidates: &[Candidate], priority: i64) -> (Outcome, Vec<usize>) {
        let mut ranked = Vec::new();
        PredictedTtft::default().rank(&candidates, 1, usize::MAX, &mut ranked);
        let outcome = rule.apply(&candidates, &mut ranked, Priority(priority));
        (outcome, ranked.iter().map(|r| r.candidate).collect())
    }

    fn waiting(most: u32, then: WhenSaturated) -> Saturation {
        Saturation { limits: Limits { waiting: Some(most), ..Limits::default() }, then, ..Saturation::default() }
    }

    #[test]
    fn an_endpoint_over_a_limit_gets_nothing_while_another_is_below() {
        let two = [candidate(0, 9_000, 6), candidate(1, 0, 0)];
        assert_eq!(apply(Saturation::default(), &two, 0), (Outcome::Kept, vec![0, 1]), "no limits");
        assert_eq!(apply(waiting(6, WhenSaturated::Queue), &two, 0), (Outcome::Kept, vec![0, 1]), "at the limit");
        assert_eq!(apply(waiting(5, WhenSaturated::Queue), &two, 0), (Outcome::Moved, vec![1, 0]));
        let kv = Limits { kv_usage: Some(0.9), ..Limits::default() };
        let full = Candidate { kv: KvPressure { full: 0.95, ..KvPressure::default() }, ..two[0] };
        assert_eq!(apply(Saturation { limits: kv, ..Saturation::default() }, &[full, two[1]], 0).0, Outcome::Moved);
        let ttft = Limits { ttft: Some(Seconds(0.5)), ..Limits::default() };
        let rule = Saturation { limits: ttft, then: WhenSaturated::Reject, ..Saturation::default() };
        assert_eq!(apply(rule, &two, 0), (Outcome::Kept, vec![0, 1]));
        let busy = Candidate { in_flight: 1, ..two[1] };
        assert_eq!(apply(rule, &[busy], 0).0, Outcome::Shed);
        assert_eq!(apply(rule, &two[1..], -1).0, Outcome::Kept, "nobody is there");
    }

    #[test]
    fn when_all_are_over_the_limits_priority_decides() {
        let busy = [candidate(0, 9_000, 6), candidate(1, 0, 6)];
        for (then, priority, outcome) in [
            (WhenSaturated::Queue, -1, Outcome::Shed),
            (WhenSaturated::Queue, 0, Outcome::Kept),
            (WhenSaturated::Reject, -1, Outcome::Shed),
            (WhenSaturated::Reject, 0, Outcome::Shed),
            (WhenSaturated::Reject, 1, Outcome::Kept),
        ] {
            assert_eq!(apply(waiting(5, then), &busy, priority), (outcome, vec![0, 1]), "{then:?} {priority}");
        }
    }

    #[test]
    fn low_priority_is_refused_earlier() {
        let rule = waiting(10, WhenSaturated::Reject);
        let busy = [candidate(0, 0, 9), candidate(1, 0, 9)];
        assert_eq!((apply(rule, &busy, 0).0, apply(rule, &busy, -5).0), (Outcome::Kept, Outcome::Shed));
        let one_idle = [candidate(0, 0, 9), candidate(1, 0, 0)];
        assert_eq!(apply(rule, &one_idle, -5).0, Outcome::Kept);
    }
}
