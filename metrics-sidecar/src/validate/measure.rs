//! The arithmetic: from single answers to ratios and times. Pure; docs/validate.md gives the definitions.

use super::gateway::Outcome;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a request was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// To have each pod answer once before anything counts. Only its failures do.
    WarmUp,
    /// The first time of a prompt that comes again, or a conversation's first turn.
    First,
    /// A prompt again.
    Repeated,
    /// A later turn of a conversation.
    Turns,
    /// A prompt that comes once.
    Control,
}

impl Group {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::WarmUp, Self::First, Self::Repeated, Self::Turns, Self::Control];

    /// As the table names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warm-up",
            Self::First => "first time",
            Self::Repeated => "repeated",
            Self::Turns => "later turns",
            Self::Control => "control",
        }
    }

    /// Whether some pod has computed its prompts before.
    #[must_use]
    pub fn is_warm(self) -> bool {
        matches!(self, Self::Repeated | Self::Turns)
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it was sent for.
    pub group: Group,
    /// Which part of the variant: a step of the ramp; 0 before, 1 during and 2 after a restart.
    pub part: usize,
    /// Tokens of its prompt that some pod has computed before, in whole blocks; 0 when none, or not known.
    pub repeatable: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Sample {
    fn good(&self) -> bool {
        self.outcome.failure.is_none()
    }

    /// Repeatable tokens that were found in the cache. What was found beyond them is no merit of routing.
    #[must_use]
    pub fn hit(&self) -> u64 {
        self.cached().min(self.repeatable)
    }

    fn cached(&self) -> u64 {
        self.outcome.usage.and_then(|usage| usage.cached_tokens()).unwrap_or(0)
    }

    /// Whether less than half of what could be found was.
    #[must_use]
    pub fn missed(&self) -> bool {
        self.good() && self.repeatable > 0 && self.hit() * 2 < self.repeatable
    }
}

/// Tokens of a prompt that a repetition can find: whole blocks, and never the last token, which vLLM always computes.
#[must_use]
pub fn repeatable(prompt_tokens: u64, block_size: u32) -> u64 {
    let block = u64::from(block_size.max(1));
    prompt_tokens.saturating_sub(1) / block * block
}

/// Sums over some requests. Tokens and times are of those that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Sent.
    pub requests: u64,
    /// Of these, without a whole answer.
    pub failed: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Of these, found in the cache, as answers tell.
    pub cached_tokens: u64,
    /// Tokens that could be found.
    pub repeatable_tokens: u64,
    /// Of these, found.
    pub hit_tokens: u64,
    /// Their share; none where nothing could be found.
    pub hit_ratio: Option<f64>,
    /// Median time to the first generated token, in ms.
    pub ttft_p50_ms: Option<f64>,
    /// 90th percentile.
    pub ttft_p90_ms: Option<f64>,
}

impl Figures {
    /// Sums up.
    #[must_use]
    pub fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut sum = Self::default();
        let mut times = Vec::new();
        for sample in samples {
            sum.requests += 1;
            if !sample.good() {
                sum.failed += 1;
                continue;
            }
            sum.prompt_tokens += sample.outcome.usage.map_or(0, |usage| usage.prompt_tokens);
            sum.cached_tokens += sample.cached();
            sum.repeatable_tokens += sample.repeatable;
            sum.hit_tokens += sample.hit();
            times.extend(sample.outcome.first_token.map(|time| time.as_secs_f64() * 1e3));
        }
        sum.hit_ratio = ratio(sum.hit_tokens as f64, sum.repeatable_tokens as f64);
        times.sort_by(f64::total_cmp);
        sum.ttft_p50_ms = percentile(&times, 50);
        sum.ttft_p90_ms = percentile(&times, 90);
        sum
    }
}

/// `part` of `whole`; none where there is no whole.
#[must_use]
pub fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// The smallest value that at least `percent` of all are at or below (nearest rank); `sorted` ascending.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// By how much the median of `warm` is below that of `control`, as a share; negative where it is above.
#[must_use]
pub fn improvement(warm: &Figures, control: &Figures) -> Option<f64> {
    let (warm, control) = (warm.ttft_p50_ms?, control.ttft_p50_ms?);
    (control > 0.0).then(|| 1.0 - warm / control)
}

/// Requests that failed for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// The reason.
    pub reason: String,
    /// How many.
    pub requests: u64,
    /// What the server said of the first of them that it said anything of.
    pub said: Option<String>,
}

/// The failures, the most frequent reason first.
#[must_use]
pub fn failures(samples: &[Sample]) -> Vec<Failure> {
    let mut all: Vec<Failure> = Vec::new();
    for outcome in samples.iter().map(|sample| &sample.outcome) {
        let Some(reason) = &outcome.failure else { continue };
        match all.iter_mut().find(|known| known.reason == *reason) {
            Some(known) => {
                known.requests += 1;
                known.said = known.said.take().or_else(|| outcome.said.clone());
            }
            None => all.push(Failure { reason: reason.clone(), requests: 1, said: outcome.said.clone() }),
        }
    }
    all.sort_by_key(|failure| std::cmp::Reverse(failure.requests));
    all
}

/// Answers by HTTP status; `none` where there was no answer.
#[must_use]
pub fn codes(samples: &[Sample]) -> BTreeMap<String, u64> {
    let mut codes = BTreeMap::new();
    for sample in samples {
        let code = match sample.outcome.status {
            0 => "none".to_owned(),
            code => code.to_string(),
        };
        *codes.entry(code).or_default() += 1;
    }
    codes
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::stream::Usage;
    use super::*;
    use std::time::Duration;

    /// A request that succeeded.
    pub fn sample(group: Group, prompt: u64, repeatable: u64, cached: Option<u64>, ms: u64) -> Sample {
        let outcome = Outcome {
            status: 200,
            first_token: Some(Duration::from_millis(ms)),
            usage: Some(Usage::new(prompt, cached)),
            ..Outcome::default()
        };
        Sample { group, part: 0, repeatable, outcome }
    }

    /// One that failed.
    pub fn failed(group: Group, status: u16, reason: &str, said: Option<&str>) -> Sample {
        let outcome =
            Outcome { status, failure: Some(reason.to_owned()), said: said.map(str::to_owned), ..Outcome::default() };
        Sample { group, part: 0, repeatable: 1000, outcome }
    }

    #[test]
    fn whole_blocks_can_be_found_and_never_the_last_token() {
        assert_eq!([0, 1, 16, 17, 32, 33].map(|n| repeatable(n, 16)), [0, 0, 0, 16, 16, 32]);
        assert_eq!(repeatable(10, 0), 9);
    }

    #[test]
    fn the_hit_ratio_is_of_what_could_be_found() {
        let samples = [
            sample(Group::Repeated, 1000, 992, Some(992), 10),
            sample(Group::Turns, 1200, 992, Some(1100), 10),
            sample(Group::Repeated, 1000, 992, None, 10),
        ];
        let figures = Figures::of(&samples);
        // More than was repeatable is not counted.
        assert_eq!((figures.hit_tokens, figures.repeatable_tokens), (2 * 992, 3 * 992));
        assert_eq!(figures.hit_ratio, Some(2.0 / 3.0));
        assert_eq!((figures.prompt_tokens, figures.cached_tokens), (3200, 2092));
        assert!(samples[2].missed() && !samples[0].missed());
    }

    #[test]
    fn failed_requests_enter_neither_ratios_nor_times() {
        let figures = Figures::of(&[
            sample(Group::Repeated, 100, 96, Some(96), 10),
            failed(Group::Repeated, 503, "status 503", None),
        ]);
        assert_eq!((figures.requests, figures.failed, figures.hit_ratio), (2, 1, Some(1.0)));
        assert_eq!(figures.ttft_p90_ms, Some(10.0));
        assert!(!failed(Group::Repeated, 503, "status 503", None).missed());
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let none = Figures::of(&[]);
        assert_eq!((none.hit_ratio, none.ttft_p50_ms, improvement(&none, &none)), (None, None, None));
    }

    #[test]
    fn percentiles_are_measured_values() {
        let times: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!([50, 90, 100].map(|p| percentile(&times, p)), [Some(5.0), Some(9.0), Some(10.0)]);
        assert_eq!(percentile(&[7.0], 50), Some(7.0));
    }

    #[test]
    fn improvement_is_against_the_control_group() {
        let at = |ms| Figures::of(&[sample(Group::Repeated, 1, 0, None, ms)]);
        assert_eq!(improvement(&at(20), &at(100)), Some(0.8));
        assert!(improvement(&at(150), &at(100)).unwrap() < 0.0);
    }

    #[test]
    fn failures_are_counted_by_reason_with_what_was_said() {
        let samples = [
            failed(Group::First, 0, "connection refused", None),
            failed(Group::First, 503, "status 503", None),
            failed(Group::First, 503, "status 503", Some("no healthy upstream")),
            sample(Group::First, 1, 0, None, 1),
        ];
        let said = Some("no healthy upstream".to_owned());
        let first = Failure { reason: "status 503".to_owned(), requests: 2, said };
        assert_eq!(failures(&samples)[0], first);
        let codes: Vec<_> = codes(&samples).into_iter().collect();
        assert_eq!(codes, [("200".to_owned(), 1), ("503".to_owned(), 2), ("none".to_owned(), 1)]);
    }
}
