//! Sums a load up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::connection::Done;
use crate::quantiles::{Sorted, thousandths};

/// What is counted.
pub struct Window {
    /// Its begin.
    pub from: Instant,
    /// Its end.
    pub until: Instant,
    /// Where the load had a rate of its own: how many requests were due.
    pub due: Option<usize>,
}

impl Window {
    fn has(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }

    /// With a rate, what was due in it, however long it took: slow answers must not drop out. Else what ended in it.
    fn counts(&self, done: &Done) -> bool {
        self.has(if self.due.is_some() { done.due } else { done.end })
    }
}

/// The summary. Times are of requests that succeeded; absent where there were none.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Requests counted.
    pub requests: usize,
    /// Of these, requests without a whole 200 answer with usage.
    pub failed: usize,
    /// Their causes.
    pub failures: BTreeMap<&'static str, usize>,
    /// Seconds counted.
    pub seconds: f64,
    /// Good answers that ended in the window, a second.
    pub rps: f64,
    /// From the moment a request was due to the end of its answer.
    pub mean_ms: Option<f64>,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 90th percentile.
    pub p90_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// CPU time of each process asked for, divided by the requests that ended meanwhile, in µs.
    pub cpu_us_per_request: Vec<f64>,
}

impl Report {
    /// `cpu`: what each process took during the window.
    pub fn new(done: &[Done], window: &Window, cpu: Vec<Duration>) -> Self {
        let counted = || done.iter().filter(|done| window.counts(done));
        let mut failures = BTreeMap::new();
        for cause in counted().filter_map(|done| done.outcome.err()) {
            *failures.entry(cause).or_insert(0) += 1;
        }
        let sent = counted().count();
        let requests = window.due.unwrap_or(sent);
        if requests > sent {
            // All connections were waiting for answers when it was over.
            failures.insert("not sent", requests - sent);
        }
        let failed = failures.values().sum();
        let times = Sorted::new(counted().filter(|done| done.outcome.is_ok()).map(|done| done.end - done.due));
        let seconds = (window.until - window.from).as_secs_f64();
        let ended = || done.iter().filter(|done| window.has(done.end));
        let good = ended().filter(|done| done.outcome.is_ok()).count();
        let each = |cpu: Duration| thousandths(cpu.as_secs_f64() * 1e6 / ended().count().max(1) as f64);
        Self {
            requests,
            failed,
            failures,
            seconds: thousandths(seconds),
            rps: thousandths(good as f64 / seconds),
            mean_ms: times.mean(),
            p50_ms: times.percentile(50),
            p90_ms: times.percentile(90),
            p99_ms: times.percentile(99),
            cpu_us_per_request: cpu.into_iter().map(each).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(start: Instant, due: u64, end: u64, outcome: Result<(), &'static str>) -> Done {
        let at = |ms| start + Duration::from_millis(ms);
        Done { due: at(due), end: at(end), outcome }
    }

    fn window(start: Instant, due: Option<usize>) -> Window {
        Window { from: start + Duration::from_millis(100), until: start + Duration::from_millis(200), due }
    }

    #[test]
    fn a_closed_loop_counts_what_ended_and_an_open_one_what_was_due() {
        let start = Instant::now();
        let all = [done(start, 90, 110, Ok(())), done(start, 150, 160, Ok(())), done(start, 190, 900, Ok(()))];
        let closed = Report::new(&all, &window(start, None), vec![]);
        assert_eq!((closed.requests, closed.mean_ms, closed.p99_ms), (2, Some(15.0), Some(20.0)));
        let open = Report::new(&all, &window(start, Some(2)), vec![]);
        assert_eq!((open.requests, open.failed), (2, 0));
        assert_eq!((open.mean_ms, open.p99_ms), (Some(360.0), Some(710.0)));
    }

    #[test]
    fn what_was_due_and_never_sent_has_failed() {
        let start = Instant::now();
        let report = Report::new(&[done(start, 150, 160, Ok(()))], &window(start, Some(5)), vec![]);
        assert_eq!((report.requests, report.failed, report.failures["not sent"]), (5, 4, 4));
        assert_eq!(report.rps, 10.0);
    }

    #[test]
    fn failures_are_counted_by_cause_and_have_no_latency() {
        let start = Instant::now();
        let all = [done(start, 100, 150, Ok(())), done(start, 100, 190, Err("timeout"))];
        let report = Report::new(&all, &window(start, None), vec![Duration::from_millis(3)]);
        assert_eq!((report.requests, report.failed, report.failures["timeout"]), (2, 1, 1));
        assert_eq!((report.rps, report.mean_ms), (10.0, Some(50.0)));
        assert_eq!(report.cpu_us_per_request, [1500.0]);
    }
}
