//! How a source of pods stands: in step with what it reads, or failing since when and why. Written by the source; read
//! by the metrics and the status page.
//!
//! A source may read several things (an InferencePool and its pods); it is in step when all of them are.

use crate::clock::Clock;
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use warmpath_core::units::Millis;

/// How many different errors of one failure are logged.
const SAID: usize = 8;

/// One source's standing.
#[derive(Debug)]
pub struct Standing {
    name: String,
    clock: Clock,
    errors: Counter,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What it reads, and how reading it fails.
    parts: BTreeMap<&'static str, Option<Failure>>,
    endpoints: usize,
    changed: Option<Millis>,
    remarks: Vec<String>,
}

#[derive(Clone, Debug)]
struct Failure {
    since: Millis,
    error: String,
    /// What was logged of it: behind a load balancer two errors may take turns.
    said: BTreeSet<String>,
}

/// A copy of it, for the pages.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the source reads.
    pub name: String,
    /// Whether the source was read and is being followed.
    pub synced: bool,
    /// Pods that it has found.
    pub endpoints: usize,
    /// When it last told of anything.
    pub changed: Option<Millis>,
    /// Since when it fails, and the newest errors.
    pub failing: Option<(Millis, String)>,
    /// What is odd with what was found.
    pub remarks: Vec<String>,
}

impl Standing {
    /// Of a source that was not read yet. `errors` is shared by all sources.
    #[must_use]
    pub fn new(name: String, clock: Clock, errors: Counter) -> Self {
        Self { name, clock, errors, state: Mutex::default() }
    }

    /// Reading that part failed. Counted and logged when it begins and when the error is a new one, not at each retry.
    pub fn failed(&self, part: &'static str, error: &str) {
        let mut state = self.lock();
        let begins = || Failure { since: self.clock.now(), error: String::new(), said: BTreeSet::new() };
        let failure = state.parts.entry(part).or_default().get_or_insert_with(begins);
        error.clone_into(&mut failure.error);
        if failure.said.len() >= SAID || !failure.said.insert(error.to_owned()) {
            return;
        }
        drop(state);
        self.errors.inc();
        tracing::error!(source = %self.name, error, "endpoints not read; the last good ones stay in force");
    }

    /// That part is being followed.
    pub fn followed(&self, part: &'static str) {
        let before = self.lock().parts.insert(part, None).flatten();
        if let Some(failure) = before {
            let seconds = self.clock.now().since(failure.since).0;
            tracing::info!(source = %self.name, part, "endpoints read again, after {seconds:.1} s");
        }
    }

    /// It told of its pods.
    pub fn found(&self, endpoints: usize, remarks: Vec<String>) {
        let mut state = self.lock();
        let is_first = state.changed.is_none();
        state.changed = Some(self.clock.now());
        state.endpoints = endpoints;
        let new: Vec<String> = remarks.iter().filter(|remark| !state.remarks.contains(remark)).cloned().collect();
        state.remarks = remarks;
        drop(state);
        // What comes and goes later has a line of its own.
        if is_first {
            tracing::info!(source = %self.name, endpoints, "endpoints read");
        } else {
            tracing::debug!(source = %self.name, endpoints, "endpoints read");
        }
        for remark in new {
            tracing::warn!(source = %self.name, remark, "endpoints");
        }
    }

    /// How it stands now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.lock().clone();
        let failures: Vec<Failure> = state.parts.values().flatten().cloned().collect();
        let since = failures.iter().map(|failure| failure.since).min();
        let errors: Vec<String> = failures.into_iter().map(|failure| failure.error).collect();
        Report {
            name: self.name.clone(),
            synced: errors.is_empty() && state.changed.is_some(),
            endpoints: state.endpoints,
            changed: state.changed,
            failing: since.map(|since| (since, errors.join("; "))),
            remarks: state.remarks,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> (Standing, Counter) {
        let errors = Counter::default();
        (Standing::new("a source".to_owned(), Clock::start(), errors.clone()), errors)
    }

    #[test]
    fn in_step_once_read_and_while_nothing_fails() {
        let (standing, _) = standing();
        assert!(!standing.report().synced);
        standing.followed("pods");
        standing.found(3, Vec::new());
        assert!(standing.report().synced);
        standing.failed("pods", "refused");
        let report = standing.report();
        assert!(!report.synced);
        assert_eq!((report.endpoints, report.failing.unwrap().1.as_str()), (3, "refused"));
        standing.followed("pods");
        assert!(standing.report().synced && standing.report().failing.is_none());
    }

    #[test]
    fn in_step_means_all_that_it_reads() {
        let (standing, _) = standing();
        standing.failed("pods", "refused");
        standing.found(0, Vec::new());
        standing.followed("inferencepools");
        assert!(!standing.report().synced);
    }

    #[test]
    fn a_failure_counts_once_however_often_it_is_tried() {
        let (standing, errors) = standing();
        for error in ["refused", "refused", "reset", "reset", "refused"] {
            standing.failed("pods", error);
        }
        assert_eq!(errors.get(), 2);
        assert_eq!(standing.report().failing.unwrap().1, "refused");
        standing.followed("pods");
        standing.failed("pods", "reset");
        assert_eq!(errors.get(), 3);
    }
}
