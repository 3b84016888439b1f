//! Whether a pod may be chosen, judged from how its scrapes end. Pure: the time comes in as an argument.
//!
//! ```text
//!            success                     slow or unreadable
//! Failing ───────────▶ Ready ─────────────────────────────▶ Late
//!    ▲                  │  ▲────────────── success ──────────│ │
//!    │  refused twice   │                    refused twice   │ │
//!    ├──────────────────┘◀───────────────────────────────────┘ │
//!    └──────────── no success for `late_limit` ────────────────┘
//! ```
//!
//! The two ways out differ because their costs do. A pod that refuses answers nobody: it must be out within 3 s, and
//! is after one interval and one retry. A pod that is slow to answer is most likely busy with a long prefill, and
//! warm: to eject it would send its prompts to cold pods, just when the pool is busiest.

use std::time::Duration;
use warmpath_core::table::State;
use warmpath_core::units::Millis;

use crate::clock::millis;

/// How a scrape ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Healthy, and its metrics were read.
    Success,
    /// Connection refused, reset, closed early or not answered by the pod's kernel.
    Refused,
    /// `/health` answered, but not 200.
    Unready,
    /// No answer in time.
    Slow,
    /// An answer that is not a metrics page of vLLM.
    Unreadable,
}

impl Outcome {
    /// Those that are no success.
    pub const FAILURES: [Self; 4] = [Self::Refused, Self::Unready, Self::Slow, Self::Unreadable];

    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Unready => "unready",
            Self::Slow => "slow",
            Self::Unreadable => "unreadable",
        }
    }
}

/// When to scrape next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// After the usual interval.
    Usual,
    /// Soon: the last outcome needs confirming before it counts.
    Confirm,
}

/// The health of one pod.
#[derive(Clone, Debug)]
pub struct Health {
    late_limit: Duration,
    state: State,
    suspected: bool,
    last_success: Option<Millis>,
}

impl Health {
    /// A pod never scraped: not choosable until its first success.
    #[must_use]
    pub fn new(late_limit: Duration) -> Self {
        Self { late_limit, state: State::Failing, suspected: false, last_success: None }
    }

    /// Ready, late or failing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When a scrape last succeeded.
    #[must_use]
    pub fn last_success(&self) -> Option<Millis> {
        self.last_success
    }

    /// Takes in how a scrape ended (or, for a scrape that still runs, that it is slow).
    pub fn observe(&mut self, outcome: Outcome, now: Millis) -> Next {
        match outcome {
            Outcome::Success => {
                self.state = State::Ready;
                self.suspected = false;
                self.last_success = Some(now);
            }
            Outcome::Refused | Outcome::Unready if self.state.is_choosable() && !self.suspected => {
                self.suspected = true;
                return Next::Confirm;
            }
            Outcome::Refused | Outcome::Unready => self.state = State::Failing,
            Outcome::Slow | Outcome::Unreadable => {
                let silent_ms = self.last_success.map(|at| now.0.saturating_sub(at.0));
                let may_stay = silent_ms.is_some_and(|ms| ms < millis(self.late_limit));
                // From Failing only a success leads back: a refusal was certain, slowness is not its opposite.
                self.state = if may_stay && self.state.is_choosable() { State::Late } else { State::Failing };
            }
        }
        Next::Usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_at(ms: u64) -> Health {
        let mut health = Health::new(Duration::from_secs(20));
        assert_eq!(health.observe(Outcome::Success, Millis(ms)), Next::Usual);
        assert_eq!(health.state(), State::Ready);
        health
    }

    #[test]
    fn a_new_pod_is_not_choosable_before_its_first_success() {
        let mut health = Health::new(Duration::from_secs(20));
        assert!(!health.state().is_choosable());
        for outcome in [Outcome::Slow, Outcome::Refused, Outcome::Unready, Outcome::Unreadable] {
            assert_eq!(health.observe(outcome, Millis(5)), Next::Usual);
            assert_eq!(health.state(), State::Failing);
        }
        health.observe(Outcome::Success, Millis(9));
        assert_eq!(health.state(), State::Ready);
    }

    #[test]
    fn a_refusal_counts_once_it_is_confirmed() {
        for outcome in [Outcome::Refused, Outcome::Unready] {
            let mut health = ready_at(0);
            assert_eq!(health.observe(outcome, Millis(1000)), Next::Confirm);
            assert_eq!(health.state(), State::Ready);
            assert_eq!(health.observe(outcome, Millis(1200)), Next::Usual);
            assert_eq!(health.state(), State::Failing);
        }
    }

    #[test]
    fn a_refusal_that_does_not_repeat_is_forgotten() {
        let mut health = ready_at(0);
        health.observe(Outcome::Refused, Millis(1000));
        health.observe(Outcome::Success, Millis(1200));
        assert_eq!(health.observe(Outcome::Refused, Millis(2200)), Next::Confirm);
        assert_eq!(health.state(), State::Ready);
    }

    #[test]
    fn a_slow_pod_stays_choosable_for_twenty_seconds_since_its_last_success() {
        let mut health = ready_at(1000);
        for s in 2..=20 {
            health.observe(Outcome::Slow, Millis(s * 1000));
            assert_eq!(health.state(), State::Late, "{s}");
        }
        health.observe(Outcome::Slow, Millis(21_000));
        assert_eq!(health.state(), State::Failing);
        health.observe(Outcome::Success, Millis(22_000));
        assert_eq!(health.state(), State::Ready);
    }

    #[test]
    fn a_late_pod_that_refuses_is_out_at_once_when_confirmed() {
        let mut health = ready_at(0);
        health.observe(Outcome::Slow, Millis(1000));
        assert_eq!(health.observe(Outcome::Refused, Millis(2000)), Next::Confirm);
        health.observe(Outcome::Refused, Millis(2200));
        assert_eq!(health.state(), State::Failing);
    }

    #[test]
    fn refusals_with_slowness_in_between_still_count_together() {
        let mut health = ready_at(0);
        health.observe(Outcome::Refused, Millis(1000));
        health.observe(Outcome::Slow, Millis(2000));
        health.observe(Outcome::Refused, Millis(3000));
        assert_eq!(health.state(), State::Failing);
    }

    #[test]
    fn a_failing_pod_does_not_come_back_by_being_slow() {
        let mut health = ready_at(0);
        health.observe(Outcome::Refused, Millis(1000));
        health.observe(Outcome::Refused, Millis(1200));
        health.observe(Outcome::Slow, Millis(2000));
        assert_eq!(health.state(), State::Failing);
    }
}
