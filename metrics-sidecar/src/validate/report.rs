//! The report: what was measured, and whether it is enough. Its JSON is `--json`.

use super::counters::Counted;
use super::measure::{Failure, Figures, Group, Sample, codes, failures, improvement, ratio};
use super::verdict::{Check, Subject};
use crate::cli::validate::{ValidateArgs, Variant};
use serde::Serialize;
use std::collections::BTreeMap;

/// Of the control group's tokens, more than this share in the cache: its prompts were not new.
const CONTROL_CACHED: f64 = 0.1;
/// More than this between what answers and counters say is remarked.
const COUNTED_APART: f64 = 0.05;

/// What a run was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Version of warmpath.
    pub version: String,
    /// The gateway.
    pub gateway: String,
    /// The model.
    pub model: String,
    /// What was played.
    pub variant: String,
    /// What the prompts were drawn from.
    pub seed: u64,
    /// Requests in flight.
    pub concurrency: Vec<u32>,
    /// Time that it took.
    pub seconds: f64,
    /// What a reader should know.
    pub remarks: Vec<String>,
}

/// The report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the run was.
    #[serde(flatten)]
    pub run: Run,
    /// Whether all thresholds held.
    pub passed: bool,
    /// Each threshold.
    pub checks: Vec<Check>,
    /// Share of the repeatable tokens that were found in the cache.
    pub hit_ratio: Option<f64>,
    /// What tells it: `answers`, `counters`, or nothing.
    pub hit_ratio_from: Option<&'static str>,
    /// By how much the median TTFT is shorter than the control group's.
    pub ttft_improvement: Option<f64>,
    /// Requests with a prompt that some pod had computed before.
    pub warm: Figures,
    /// Sums of each group.
    pub groups: Vec<GroupFigures>,
    /// Sums of each part: the steps of a ramp, and before, during and after a restart.
    pub parts: Vec<PartFigures>,
    /// Requests sent, the warm-up's among them.
    pub requests: u64,
    /// Of these, without a whole answer.
    pub failed: u64,
    /// Why.
    pub failures: Vec<Failure>,
    /// Answers by HTTP status.
    pub codes: BTreeMap<String, u64>,
    /// What each pod did after the warm-up.
    pub pods: Vec<PodFigures>,
    /// Cached tokens of all answers after the warm-up, to compare with the pods' counters.
    pub cached_tokens: u64,
}

/// Sums of a group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupFigures {
    /// Which.
    pub group: Group,
    /// Its sums.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Sums of a part.
#[derive(Clone, Debug, Serialize)]
pub struct PartFigures {
    /// Which.
    pub part: String,
    /// Of repeated prompts.
    pub warm: Figures,
    /// Of the part's control group.
    pub control: Figures,
    /// Repeated prompts that were found less than half cached.
    pub missed: u64,
}

/// What a pod did after the warm-up.
#[derive(Clone, Debug, Serialize)]
pub struct PodFigures {
    /// Its address.
    pub pod: String,
    /// Answers that name it; none where answers name no pods (`debug_headers`).
    pub requests: Option<u64>,
    /// Prompt tokens that it looked up, where its counters were read.
    pub queried_tokens: Option<u64>,
    /// Of these, found.
    pub hit_tokens: Option<u64>,
}

impl PodFigures {
    fn is_idle(&self) -> bool {
        self.requests.unwrap_or(0) == 0 && self.queried_tokens == Some(0)
    }
}

impl Report {
    /// Sums up. `counted` is what the pods counted after the warm-up, where they were read.
    #[must_use]
    pub fn new(mut run: Run, samples: &[Sample], counted: &Counted, args: &ValidateArgs) -> Self {
        let measured = || samples.iter().filter(|sample| sample.group != Group::WarmUp);
        let parts = parts(samples, args);
        let all = Figures::of(measured());
        let warm = Figures::of(measured().filter(|sample| sample.group.is_warm()));
        let control = Figures::of(measured().filter(|sample| sample.group == Group::Control));
        let source = Source::of(samples, counted);
        let hit_ratio = match source {
            Some(Source::Answers) => warm.hit_ratio,
            // Nothing but what was repeated can have been found.
            Some(Source::Counters) => {
                let hits: f64 = counted.values().map(|pod| pod.hits).sum();
                ratio(hits, warm.repeatable_tokens as f64).map(|ratio| ratio.min(1.0))
            }
            None => None,
        };
        remark(&mut run.remarks, source, &all, &control, counted);
        let pods = pods(measured(), counted);
        let idle: Vec<&str> = pods.iter().filter(|pod| pod.is_idle()).map(|pod| pod.pod.as_str()).collect();
        if !idle.is_empty() && all.requests > 0 {
            let names = idle.join(", ");
            run.remarks
                .push(format!("nothing went to {names} after the warm-up: docs/alerts.md, WarmpathPodImbalance"));
        }
        let ttft_improvement = match (args.variant, parts.first()) {
            // Queues, not caches, are what the later steps show.
            (Variant::Ramp, Some(first)) => improvement(&first.warm, &first.control),
            _ => improvement(&warm, &control),
        };
        let mut report = Self {
            run,
            passed: false,
            checks: Vec::new(),
            hit_ratio,
            hit_ratio_from: source.map(Source::name),
            ttft_improvement,
            groups: groups(samples),
            parts,
            requests: samples.len() as u64,
            failed: samples.iter().filter(|sample| sample.outcome.failure.is_some()).count() as u64,
            failures: failures(samples),
            codes: codes(samples),
            pods,
            cached_tokens: all.cached_tokens,
            warm,
        };
        report.checks = report.checks(&control, args);
        report.passed = report.checks.iter().all(|check| check.passed);
        report
    }

    fn checks(&self, control: &Figures, args: &ValidateArgs) -> Vec<Check> {
        let why = match (self.hit_ratio, self.hit_ratio_from) {
            (None, None) => {
                "no answer tells cached_tokens: is prefix caching on, and vLLM started with \
                             --enable-prompt-tokens-details? Or name --sidecar or --pods"
            }
            (None, Some(_)) => "no request was repeated with success",
            _ => "",
        };
        // From counters there is one figure for the whole run.
        let by_answers = self.hit_ratio_from == Some(Source::Answers.name());
        let part = |n: usize| self.parts.get(n).filter(|_| by_answers).and_then(|part| part.warm.hit_ratio);
        let hit_ratio = Subject::HitRatio;
        let mut checks = match args.variant {
            Variant::PodRestart if by_answers => {
                let missed = self.parts.iter().skip(1).map(|part| part.missed).sum();
                let limit = args.recover_within.unwrap_or(args.prompts * 2);
                vec![
                    hit_ratio.at_least(part(0), args.min_hit_ratio, "before the restart"),
                    Subject::Recovery.at_most(missed, u64::from(limit), ""),
                    Subject::HitRatioAfter.at_least(part(2), args.min_hit_ratio, ""),
                ]
            }
            Variant::Ramp if by_answers => {
                let worst = self.parts.iter().filter_map(|part| Some((part.warm.hit_ratio?, &part.part)));
                let worst = worst.min_by(|a, b| a.0.total_cmp(&b.0));
                let at = worst.map(|(_, part)| format!("the worst step: {part}")).unwrap_or_default();
                vec![hit_ratio.at_least(worst.map(|(ratio, _)| ratio), args.min_hit_ratio, &at)]
            }
            _ => vec![hit_ratio.at_least(self.hit_ratio, args.min_hit_ratio, why)],
        };
        let (warm, control) = match (args.variant, self.parts.first()) {
            (Variant::Ramp, Some(first)) => (&first.warm, &first.control),
            _ => (&self.warm, control),
        };
        let medians = match (warm.ttft_p50_ms, control.ttft_p50_ms) {
            (Some(warm), Some(control)) => format!("median {warm:.0} ms, control {control:.0} ms"),
            _ => "too few answers".to_owned(),
        };
        checks.push(Subject::TtftImprovement.at_least(self.ttft_improvement, args.min_ttft_improvement, &medians));
        let reasons: Vec<String> =
            self.failures.iter().map(|failure| format!("{} x {}", failure.requests, failure.reason)).collect();
        checks.push(Subject::Failed.at_most(self.failed, u64::from(args.max_failed), &reasons.join(", ")));
        checks
    }
}

/// What tells the hit ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Answers,
    Counters,
}

impl Source {
    /// Answers, if any tells cached tokens: vLLM leaves them out where there are none.
    fn of(samples: &[Sample], counted: &Counted) -> Option<Self> {
        if samples.iter().any(|s| s.outcome.usage.is_some_and(|usage| usage.cached_tokens().is_some())) {
            Some(Self::Answers)
        } else if counted.values().any(|pod| pod.queries > 0.0) {
            Some(Self::Counters)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Counters => "counters",
        }
    }
}

fn remark(remarks: &mut Vec<String>, source: Option<Source>, all: &Figures, control: &Figures, counted: &Counted) {
    if ratio(control.cached_tokens as f64, control.prompt_tokens as f64).is_some_and(|share| share > CONTROL_CACHED) {
        remarks.push("the control group was partly cached: was this --seed used before?".to_owned());
    }
    if source == Some(Source::Counters) {
        remarks.push(
            "answers tell no cached_tokens: the hit ratio is of the pods' counters, for the whole run".to_owned(),
        );
    }
    let hits: f64 = counted.values().map(|pod| pod.hits).sum();
    let cached = all.cached_tokens as f64;
    if source == Some(Source::Answers) && !counted.is_empty() && (hits - cached).abs() > cached * COUNTED_APART {
        remarks.push(format!(
            "answers tell {cached:.0} cached tokens, the pods counted {hits:.0}: others use them, a pod is not read, \
             or one was restarted"
        ));
    }
    let capacity: u64 = counted.values().map(|pod| pod.capacity).sum();
    let new = all.prompt_tokens.saturating_sub(all.cached_tokens);
    if capacity > 0 && new > capacity {
        remarks.push(format!(
            "{new} new tokens are more than the caches hold ({capacity}): evictions cost hits. Send less"
        ));
    }
}

fn groups(samples: &[Sample]) -> Vec<GroupFigures> {
    Group::ALL
        .into_iter()
        .map(|group| GroupFigures { group, figures: Figures::of(samples.iter().filter(|s| s.group == group)) })
        .filter(|group| group.figures.requests > 0)
        .collect()
}

fn parts(samples: &[Sample], args: &ValidateArgs) -> Vec<PartFigures> {
    let names: Vec<String> = match args.variant {
        Variant::Standard => return Vec::new(),
        Variant::PodRestart => ["before", "during", "after"].map(str::to_owned).into(),
        Variant::Ramp => args.steps.iter().map(|step| format!("{step} in flight")).collect(),
    };
    let of = |n: usize, wanted: fn(Group) -> bool| {
        samples.iter().filter(move |sample| sample.part == n && wanted(sample.group))
    };
    let part = |(n, part): (usize, String)| PartFigures {
        part,
        warm: Figures::of(of(n, Group::is_warm)),
        control: Figures::of(of(n, |group| group == Group::Control)),
        missed: of(n, Group::is_warm).filter(|sample| sample.missed()).count() as u64,
    };
    names.into_iter().enumerate().map(part).collect()
}

fn pods<'a>(samples: impl Iterator<Item = &'a Sample>, counted: &Counted) -> Vec<PodFigures> {
    let mut named: BTreeMap<&str, u64> = BTreeMap::new();
    for pod in samples.filter_map(|sample| sample.outcome.pod.as_deref()) {
        *named.entry(pod).or_default() += 1;
    }
    let mut all: Vec<&str> = named.keys().copied().chain(counted.keys().map(String::as_str)).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .map(|pod| PodFigures {
            pod: pod.to_owned(),
            requests: (!named.is_empty()).then(|| named.get(pod).copied().unwrap_or(0)),
            queried_tokens: counted.get(pod).map(|counters| counters.queries as u64),
            hit_tokens: counted.get(pod).map(|counters| counters.hits as u64),
        })
        .collect()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
