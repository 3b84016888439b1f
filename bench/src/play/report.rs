//! Sums a play up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::request::Outcome;
use super::scrape::Counters;
use super::trace::Planned;
use crate::quantiles::{Sorted, thousandths};

/// The summary, as written to `--json`. Times are of requests that succeeded; absent where there were none.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `--label`.
    pub label: String,
    /// Requests sent.
    pub requests: usize,
    /// Of these, requests without a whole 200 answer with usage.
    pub failed: usize,
    /// Their causes.
    pub failures: BTreeMap<String, usize>,
    /// Cached over prompt tokens, as pods reported them.
    pub hit_ratio: f64,
    /// Sum over answers.
    pub prompt_tokens: u64,
    /// Sum over answers.
    pub cached_tokens: u64,
    /// Time to the first chunk, milliseconds.
    pub ttft_mean_ms: Option<f64>,
    /// Median.
    pub ttft_p50_ms: Option<f64>,
    /// 90th percentile.
    pub ttft_p90_ms: Option<f64>,
    /// 99th percentile.
    pub ttft_p99_ms: Option<f64>,
    /// Median time to the end, milliseconds.
    pub e2e_p50_ms: Option<f64>,
    /// 90th percentile.
    pub e2e_p90_ms: Option<f64>,
    /// First send to last answer.
    pub duration_s: f64,
    /// Requests by pod: from `x-sim-pod` where answers carry it, else from the pods' own counters.
    pub spread: BTreeMap<String, u64>,
    /// Change of the pods' counters during the play.
    pub pod_metrics: BTreeMap<String, Counters>,
}

impl Report {
    /// Sums up all outcomes; `pods` holds what the pods counted during the play.
    pub fn new(label: &str, outcomes: &[Outcome], duration: Duration, pods: BTreeMap<String, Counters>) -> Self {
        let good = || outcomes.iter().filter(|outcome| outcome.failure.is_none());
        let mut failures = BTreeMap::new();
        for cause in outcomes.iter().filter_map(|outcome| outcome.failure.clone()) {
            *failures.entry(cause).or_insert(0) += 1;
        }
        let usages = || outcomes.iter().filter_map(|outcome| outcome.usage);
        let prompt_tokens = usages().map(|usage| usage.prompt_tokens).sum();
        let cached_tokens = usages().map(|usage| usage.cached_tokens()).sum();
        let first = Sorted::new(good().filter_map(|outcome| outcome.first_token));
        let total = Sorted::new(good().map(|outcome| outcome.total));
        Self {
            label: label.to_owned(),
            requests: outcomes.len(),
            failed: failures.values().sum(),
            failures,
            hit_ratio: ratio(cached_tokens, prompt_tokens),
            prompt_tokens,
            cached_tokens,
            ttft_mean_ms: first.mean(),
            ttft_p50_ms: first.percentile(50),
            ttft_p90_ms: first.percentile(90),
            ttft_p99_ms: first.percentile(99),
            e2e_p50_ms: total.percentile(50),
            e2e_p90_ms: total.percentile(90),
            duration_s: thousandths(duration.as_secs_f64()),
            spread: spread(outcomes, &pods),
            pod_metrics: pods,
        }
    }
}

fn spread(outcomes: &[Outcome], pods: &BTreeMap<String, Counters>) -> BTreeMap<String, u64> {
    let mut spread = BTreeMap::new();
    for pod in outcomes.iter().filter_map(|outcome| outcome.pod.clone()) {
        *spread.entry(pod).or_insert(0) += 1;
    }
    if spread.is_empty() {
        let counted = pods.iter().map(|(pod, counters)| (pod.clone(), counters.requests.max(0.0) as u64));
        spread.extend(counted);
    }
    spread
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1e4).round() / 1e4 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0} ms"));
        if !self.label.is_empty() {
            writeln!(f, "{}", self.label)?;
        }
        writeln!(f, "  requests   {} in {:.1} s, {} failed", self.requests, self.duration_s, self.failed)?;
        for (cause, count) in &self.failures {
            writeln!(f, "             {count} x {cause}")?;
        }
        let percent = self.hit_ratio * 100.0;
        let tokens = format!("{} of {} prompt tokens", self.cached_tokens, self.prompt_tokens);
        writeln!(f, "  cache hits {percent:.1} % ({tokens})")?;
        let (mean, p50) = (ms(self.ttft_mean_ms), ms(self.ttft_p50_ms));
        let (p90, p99) = (ms(self.ttft_p90_ms), ms(self.ttft_p99_ms));
        writeln!(f, "  TTFT       mean {mean}, p50 {p50}, p90 {p90}, p99 {p99}")?;
        writeln!(f, "  end to end p50 {}, p90 {}", ms(self.e2e_p50_ms), ms(self.e2e_p90_ms))?;
        let spread = self.spread.iter().map(|(pod, count)| format!("{pod} {count}"));
        write!(f, "  spread     {}", spread.collect::<Vec<_>>().join(", "))
    }
}

/// One request, as written to `--records`.
#[derive(Serialize)]
pub struct Record<'a> {
    i: usize,
    t: f64,
    session: &'a str,
    turn: u64,
    status: u16,
    ttft_ms: Option<f64>,
    e2e_ms: f64,
    prompt_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    decision: &'a BTreeMap<String, String>,
    failure: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// The record of request `i`.
    pub fn new(i: usize, planned: &'a Planned, outcome: &'a Outcome) -> Self {
        let ms = |duration: Duration| thousandths(duration.as_secs_f64() * 1e3);
        Self {
            i,
            t: planned.t,
            session: &planned.session,
            turn: planned.turn,
            status: outcome.status,
            ttft_ms: outcome.first_token.map(ms),
            e2e_ms: ms(outcome.total),
            prompt_tokens: outcome.usage.map(|usage| usage.prompt_tokens),
            cached_tokens: outcome.usage.map(|usage| usage.cached_tokens()),
            pod: outcome.pod.as_deref(),
            decision: &outcome.decision,
            failure: outcome.failure.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sse::{Details, Usage};
    use super::*;

    fn outcome(ms: u64, cached: u64, failure: Option<&str>) -> Outcome {
        let details = Details { cached_tokens: Some(cached) };
        Outcome {
            status: 200,
            first_token: Some(Duration::from_millis(ms)),
            total: Duration::from_millis(ms * 2),
            usage: failure.is_none().then_some(Usage { prompt_tokens: 100, prompt_tokens_details: Some(details) }),
            pod: None,
            decision: BTreeMap::new(),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn failures_are_counted_and_do_not_enter_latencies() {
        let mut outcomes: Vec<Outcome> = (1..=10).map(|ms| outcome(ms, 50, None)).collect();
        outcomes.push(outcome(9999, 0, Some("timeout")));
        let report = Report::new("x", &outcomes, Duration::from_secs(1), BTreeMap::new());
        assert_eq!((report.requests, report.failed, report.hit_ratio), (11, 1, 0.5));
        assert_eq!(report.failures["timeout"], 1);
        assert_eq!((report.ttft_p50_ms, report.ttft_p90_ms), (Some(5.0), Some(9.0)));
        assert_eq!((report.ttft_p99_ms, report.ttft_mean_ms), (Some(10.0), Some(5.5)));
    }

    #[test]
    fn spread_falls_back_to_the_pods_own_counters() {
        let counters = Counters { requests: 3.0, ..Counters::default() };
        let pods = BTreeMap::from([("a:1".to_owned(), counters)]);
        let report = Report::new("", &[outcome(1, 0, None)], Duration::ZERO, pods);
        assert_eq!(report.spread["a:1"], 3);
    }

    #[test]
    fn nothing_at_all_is_reported_without_times() {
        let report = Report::new("", &[], Duration::ZERO, BTreeMap::new());
        assert_eq!((report.hit_ratio, report.ttft_p50_ms), (0.0, None));
        assert!(report.to_string().contains("0 failed"));
    }
}
