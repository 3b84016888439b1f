//! Every Envoy stat of the filter, in one place.
//!
//! Names appear as `wasmcustom.<name>`. Tags stand in front of the name as segments `key=.=value;.;`, the form that
//! Istio's `extraStatTags` lift out of it (any other Envoy does with `stats_tags` regexes, see
//! `docs/configuration.md`). A tag must not be called `cache`, `component`, `tag` or `wasm_filter`: Istio's bootstrap
//! has regexes of its own for those. Envoy never frees a metric, so all are defined once at start, with bounded
//! tags. Adding 0 is an error to Envoy, so it is left out.
//!
//! A call to the host costs about a microsecond, and a request touches a dozen counters: they are summed up here, and
//! [`Stats::flush`] hands them on at each tick. Histograms cannot be summed up. Those of the filter's own work are
//! bounded instead: [`Stats::is_timed`] says which requests are measured.

use crate::host::{Host, MetricId, MetricKind};
use std::cell::Cell;
use std::rc::Rc;
use warmpath_core::config::Config;
use warmpath_core::misses::Cause;
use warmpath_core::placement::Reason;
use warmpath_core::request::{ApiKind, LoadOnly};
use warmpath_core::units::Tokens;

macro_rules! metrics {
    ($(#[$enum_doc:meta])* $name:ident: $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// All of them, with their names and what they count.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$variant, $text, concat!($($doc),+)),)+];
        }
    };
}

metrics! {
    /// Counters without tags.
    Counter:
    /// Requests whose destination was named to Envoy.
    Steered = "warmpath_steered",
    /// Requests answered with 429 because all endpoints were saturated.
    Refused = "warmpath_refused",
    /// Requests decided but left to Envoy (`shadow`, or outside `steer_percent`).
    Watched = "warmpath_watched",
    /// Prompt tokens of matched requests, estimated from their bytes.
    PromptTokens = "warmpath_prompt_tokens",
    /// Of these, tokens believed to be cached where the request went.
    PredictedHitTokens = "warmpath_predicted_hit_tokens",
    /// Prompt tokens as the engines report them in `usage`, where they report cached ones too.
    TruePromptTokens = "warmpath_true_prompt_tokens",
    /// Of these, tokens that the engines found in their caches.
    TrueHitTokens = "warmpath_true_hit_tokens",
    /// Tokens that the engines found in their caches beyond what was believed to be there.
    UnexpectedHitTokens = "warmpath_unexpected_hit_tokens",
    /// Tokens that watched requests would have found cached where they would have been steered, beyond those where
    /// Envoy sent them.
    ShadowWonTokens = "warmpath_shadow_won_tokens",
    /// Requests answered with an explanation.
    Explained = "warmpath_explained",
    /// Requests for an explanation refused: not enabled, or another secret.
    ExplainRefused = "warmpath_explain_refused",
    /// Destination headers of clients that were removed.
    ClientHeaderStripped = "warmpath_client_header_stripped",
    /// Requests that Envoy sent elsewhere than named (a retry, or an endpoint that the cluster lacks).
    Rerouted = "warmpath_rerouted",
    /// Answers of 400 or above from an endpoint.
    UpstreamErrors = "warmpath_upstream_errors",
    /// Requests that ended before an answer began.
    Unanswered = "warmpath_unanswered",
    /// Bytes of request bodies read.
    BytesRead = "warmpath_bytes_read",
    /// Of these, bytes with which another body began as well, so that its reading was gone on from.
    BytesResumed = "warmpath_bytes_resumed",
    /// Prompts completed after the decision, journaled as an extension.
    Extended = "warmpath_extended",
    /// Records appended to the journal.
    JournalAppended = "warmpath_journal_appended",
    /// Slots of the journal folded, by all VMs.
    JournalFolded = "warmpath_journal_folded",
    /// Slots that were overwritten before a VM read them.
    JournalLost = "warmpath_journal_lost",
    /// Slots that could not be read.
    JournalBad = "warmpath_journal_bad",
    /// Appends that shared data refused.
    JournalErrors = "warmpath_journal_errors",
    /// Endpoint tables received.
    Tables = "warmpath_tables",
    /// Endpoint tables refused: damaged, or of an unknown format.
    TableErrors = "warmpath_table_errors",
    /// Feed streams opened.
    FeedOpened = "warmpath_feed_opened",
    /// Feed streams that ended.
    FeedClosed = "warmpath_feed_closed",
    /// Times that a VM became the feed.
    FeedLeader = "warmpath_feed_leader",
    /// Configurations refused.
    ConfigErrors = "warmpath_config_errors",
    /// Calls that Envoy refused.
    HostErrors = "warmpath_host_errors",
}

metrics! {
    /// Gauges, set by the VM that is the feed; they stay as they were when the mode is switched to `off`.
    Gauge:
    /// Endpoints in the table.
    Endpoints = "warmpath_endpoints",
    /// Of these, endpoints that may be chosen.
    Choosable = "warmpath_endpoints_choosable",
    /// Of these, endpoints that are left alone for a moment, because requests failed there in a row.
    Avoided = "warmpath_endpoints_avoided",
    /// Age of the endpoint table in ms.
    TableAge = "warmpath_table_age_ms",
    /// Boundaries in a VM's index.
    IndexEntries = "warmpath_index_entries",
    /// Boundaries that a VM forgot because an answer, or the endpoint's counters, showed that they were not there.
    IndexForgotten = "warmpath_index_forgotten",
    /// Boundaries that a VM dropped for want of room, in its index or in the endpoint's cache.
    IndexEvicted = "warmpath_index_evicted",
    /// Of these, or turned away: those that the pods still had.
    IndexCrowdedOut = "warmpath_index_crowded_out",
    /// Slots of the journal that the sidecar was not yet told of.
    JournalLag = "warmpath_journal_lag",
    /// What is done with decisions: 0 off, 1 shadow, 2 steer.
    Mode = "warmpath_mode",
    /// Share of the requests that are steered, in percent.
    SteerPercent = "warmpath_steer_percent",
    /// Requests in flight, over all VMs.
    InFlight = "warmpath_in_flight",
    /// Learned bytes a token, times 1000.
    BytesPerToken = "warmpath_bytes_per_token_milli",
    /// Learned prefill rate, tokens a second.
    PrefillRate = "warmpath_prefill_tokens_per_second",
}

metrics! {
    /// Histograms.
    Histogram:
    /// Predicted time to the first generated token, of streams whose first token came, in ms.
    PredictedTtft = "warmpath_predicted_ttft_ms",
    /// Reading and hashing a request's body, in µs. Of the first 16 requests after each tick (50 ms) of a worker.
    ReadTime = "warmpath_read_us",
    /// Folding and deciding, in µs. Of the same requests.
    DecideTime = "warmpath_decide_us",
}

/// So many requests are timed between two ticks: all of them, up to 320 a second and worker.
const TIMED_PER_TICK: u32 = 16;

/// A counter, with what Envoy was not told yet.
struct Count {
    id: MetricId,
    since: Cell<u64>,
}

/// The stats of one plugin in one VM.
pub struct Stats {
    host: Rc<dyn Host>,
    counters: Vec<Option<Count>>,
    gauges: Vec<Option<MetricId>>,
    histograms: Vec<Option<MetricId>>,
    requests: Vec<Option<Count>>,
    load_only: Vec<Option<Count>>,
    misses: Vec<Option<Count>>,
    /// By pool, then by reason.
    decisions: Vec<Option<Count>>,
    /// By pool, then warm and cold.
    ttft: Vec<Option<MetricId>>,
    /// How many more requests are timed before the next tick.
    timed: Cell<u32>,
}

/// The values of the tag `prefix`: whether at least half of the prompt was believed cached.
const PREFIXES: [&str; 2] = ["warm", "cold"];

impl Stats {
    /// Defines all metrics, unless the configuration wants none. One that Envoy refuses is left out.
    #[must_use]
    pub fn new(host: Rc<dyn Host>, config: &Config) -> Self {
        let define = |kind, name: &str| if config.stats { host.define_metric(kind, name).ok() } else { None };
        let count = |name: &str| Some(Count { id: define(MetricKind::Counter, name)?, since: Cell::new(0) });
        let counter = |name: String| count(&name);
        Self {
            counters: Counter::ALL.iter().map(|(_, name, _)| count(name)).collect(),
            gauges: Gauge::ALL.iter().map(|(_, name, _)| define(MetricKind::Gauge, name)).collect(),
            histograms: Histogram::ALL.iter().map(|(_, name, _)| define(MetricKind::Histogram, name)).collect(),
            requests: ApiKind::ALL
                .iter()
                .map(|k| counter(format!("kind=.={};.;warmpath_requests", k.name())))
                .collect(),
            load_only: LoadOnly::ALL
                .iter()
                .map(|w| counter(format!("cause=.={};.;warmpath_load_only", w.name())))
                .collect(),
            misses: Cause::ALL
                .iter()
                .map(|c| counter(format!("cause=.={};.;warmpath_missed_tokens", c.name())))
                .collect(),
            decisions: config
                .pool_names()
                .flat_map(|pool| {
                    Reason::ALL.map(|r| counter(format!("pool=.={pool};.;reason=.={};.;warmpath_decisions", r.name())))
                })
                .collect(),
            ttft: config
                .pool_names()
                .flat_map(|pool| {
                    PREFIXES.map(|prefix| {
                        let name = format!("pool=.={pool};.;prefix=.={prefix};.;warmpath_ttft_ms");
                        define(MetricKind::Histogram, &name)
                    })
                })
                .collect(),
            timed: Cell::new(if config.stats { TIMED_PER_TICK } else { 0 }),
            host,
        }
    }

    /// Tells Envoy what was counted since the last time.
    pub fn flush(&self) {
        let counts = [&self.counters, &self.requests, &self.load_only, &self.misses, &self.decisions];
        let mut touched = false;
        for count in counts.into_iter().flatten().flatten() {
            let by = count.since.take();
            if by > 0 {
                touched = true;
                self.host.increment(count.id, i64::try_from(by).unwrap_or(i64::MAX));
            }
        }
        if touched {
            self.timed.set(TIMED_PER_TICK);
        }
    }

    /// Whether the request that comes now is timed.
    pub fn is_timed(&self) -> bool {
        let left = self.timed.get();
        self.timed.set(left.saturating_sub(1));
        left > 0
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        self.increment(self.counters.get(counter as usize), by);
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: u64) {
        if let Some(Some(id)) = self.gauges.get(gauge as usize) {
            self.host.record(*id, value);
        }
    }

    /// Records into a histogram.
    pub fn record(&self, histogram: Histogram, value: u64) {
        if let Some(Some(id)) = self.histograms.get(histogram as usize) {
            self.host.record(*id, value);
        }
    }

    /// Records a time to first token, in ms, of a request that was at least half cached or not.
    pub fn ttft(&self, pool: usize, warm: bool, ms: u64) {
        if let Some(Some(id)) = self.ttft.get(pool * PREFIXES.len() + usize::from(!warm)) {
            self.host.record(*id, ms);
        }
    }

    /// Counts a request of this kind.
    pub fn request(&self, kind: ApiKind) {
        let at = ApiKind::ALL.iter().position(|k| *k == kind);
        self.increment(at.and_then(|i| self.requests.get(i)), 1);
    }

    /// Counts a request that is placed by load alone.
    pub fn load_only(&self, why: LoadOnly) {
        let at = LoadOnly::ALL.iter().position(|w| *w == why);
        self.increment(at.and_then(|i| self.load_only.get(i)), 1);
    }

    /// Counts prompt tokens that were not found in a cache.
    pub fn missed(&self, cause: Cause, tokens: Tokens) {
        self.increment(self.misses.get(cause as usize), tokens.0);
    }

    /// Counts a decision.
    pub fn decision(&self, pool: usize, reason: Reason) {
        let at = Reason::ALL.iter().position(|r| *r == reason);
        self.increment(at.and_then(|i| self.decisions.get(pool * Reason::ALL.len() + i)), 1);
    }

    fn increment(&self, count: Option<&Option<Count>>, by: u64) {
        if let Some(Some(count)) = count {
            count.since.set(count.since.get().saturating_add(by));
        }
    }
}
