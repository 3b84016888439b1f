//! The sidecar's own metrics. Counters are structs handed to what they count; everything that is a state (endpoints,
//! table, streams, views) is read when the page is asked for, so that no series outlives what it describes.

use super::status::{JournalStatus, warm_tokens};
use crate::discovery::standing::{self, Standing};
use crate::hub::Hub;
use crate::memory::Folded;
use crate::pods::Report;
use crate::pods::health::Outcome;
use crate::table::{Pod, Published};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use warmpath_core::table::{Endpoint, State};
use warmpath_core::units::{EndpointId, Millis};

const STATES: [State; 4] = [State::Ready, State::Late, State::Draining, State::Failing];

/// Counts of the scrape tasks.
#[derive(Debug)]
pub struct ScrapeMetrics {
    total: Counter,
    errors: Family<[(&'static str, &'static str); 1], Counter>,
    seconds: Histogram,
    models_errors: Counter,
}

impl ScrapeMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            total: Counter::default(),
            errors: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            models_errors: Counter::default(),
        };
        registry.register(
            "scrape",
            "Judgements of pods: scrapes, and what late ones looked like",
            metrics.total.clone(),
        );
        registry.register("scrape_errors", "Those that were no success, by cause", metrics.errors.clone());
        registry.register("scrape_seconds", "Time until a scrape was answered or failed", metrics.seconds.clone());
        registry.register("models_errors", "Failed readings of /v1/models", metrics.models_errors.clone());
        metrics
    }

    /// A scrape was answered or failed.
    pub fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// A scrape was judged.
    pub fn ended(&self, outcome: Outcome) {
        self.total.inc();
        if outcome != Outcome::Success {
            self.errors.get_or_create(&[("cause", outcome.name())]).inc();
        }
    }

    /// `/v1/models` could not be read.
    pub fn models_failed(&self) {
        self.models_errors.inc();
    }
}

/// Counts of the feed.
#[derive(Debug, Default)]
pub struct FeedMetrics {
    /// Streams that said hello.
    pub connected: Counter,
    /// Streams refused.
    pub refused: Counter,
    /// Tables sent.
    pub tables: Counter,
    /// Refills sent to the end.
    pub refills: Counter,
    /// Slots sent in refills.
    pub refill_slots: Counter,
    /// Slots sent of what other Envoys routed.
    pub routed_slots: Counter,
    /// Slots that an Envoy was too slow for.
    pub untold: Counter,
    slots: Counter,
    records: Counter,
    bad: Counter,
    repeated: Counter,
    lost: Counter,
}

impl FeedMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("feed_connects", "Feed streams that said hello", &metrics.connected),
            ("feed_refused", "Feed streams refused", &metrics.refused),
            ("tables_sent", "Endpoint tables sent to Envoys", &metrics.tables),
            ("refills_sent", "Refills sent to the end", &metrics.refills),
            ("refill_slots_sent", "Journal slots sent in refills", &metrics.refill_slots),
            ("routed_slots_sent", "Journal slots of other Envoys sent to Envoys", &metrics.routed_slots),
            ("routed_slots_lost", "Journal slots of other Envoys that an Envoy was too slow for", &metrics.untold),
            ("journal_slots", "Journal slots folded", &metrics.slots),
            ("journal_records", "Journal records folded", &metrics.records),
            ("journal_bad_slots", "Journal slots that could not be read", &metrics.bad),
            ("journal_repeated_slots", "Journal slots that had been folded before", &metrics.repeated),
            ("journal_lost_slots", "Journal slots that never came", &metrics.lost),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }

    /// What came of the journals, for the status page.
    #[must_use]
    pub fn journal(&self) -> JournalStatus {
        JournalStatus {
            slots: self.slots.get(),
            records: self.records.get(),
            bad_slots: self.bad.get(),
            lost_slots: self.lost.get(),
        }
    }

    /// A journal message was folded.
    pub fn folded(&self, folded: &Folded) {
        self.slots.inc_by(folded.slots);
        self.records.inc_by(folded.records);
        self.bad.inc_by(folded.bad);
        self.repeated.inc_by(folded.repeated);
        self.lost.inc_by(folded.lost);
    }
}

/// Counts of the exchange with peers.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    /// Streams to peers that were welcomed.
    pub connected: Counter,
    /// Streams to peers that failed or ended.
    pub failed: Counter,
    /// Streams of peers refused.
    pub refused: Counter,
    /// Records taken.
    pub records: Counter,
    /// Slots that could not be read.
    pub bad: Counter,
    /// Slots that this sidecar was too slow for.
    pub lost: Counter,
    /// Slots sent.
    pub sent: Counter,
    /// Refills taken to the end.
    pub refills: Counter,
}

impl PeerMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("peer_connects", "Streams to peers that were welcomed", &metrics.connected),
            ("peer_failures", "Streams to peers that failed or ended", &metrics.failed),
            ("peer_refused", "Streams of peers refused", &metrics.refused),
            ("peer_records", "Journal records taken from peers", &metrics.records),
            ("peer_bad_slots", "Journal slots of peers that could not be read", &metrics.bad),
            ("peer_lost_slots", "Journal slots of peers that this sidecar was too slow for", &metrics.lost),
            ("peer_slots_sent", "Journal slots sent to peers", &metrics.sent),
            ("peer_refills", "Refills taken from peers", &metrics.refills),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}

/// A registry with the prefix of all names, and what tells the version.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("warmpath_sidecar");
    registry.register("build", "Version of this build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry
}

/// Reads the present state when the page is asked for.
#[derive(Debug)]
pub struct Present {
    /// Tables, streams and views.
    pub hub: Arc<Hub>,
    /// Where endpoints come from.
    pub sources: Arc<[Arc<Standing>]>,
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let hub = &self.hub;
        let published = hub.tables.borrow().clone();
        let mut gauges = Gauges(&mut encoder);
        discovery(&mut gauges, &self.sources, hub.clock.now())?;
        if let Some(published) = &published {
            endpoints(&mut gauges, published)?;
            pods(&mut gauges, published)?;
            believed(&mut gauges, published, &believed_of(hub))?;
            let age = hub.clock.now().since(published.built_at).0;
            gauges.one("table_version", "Version of the newest endpoint table", published.table.version)?;
            gauges.one("table_age_seconds", "Time since the newest endpoint table", age)?;
        }
        gauges.one("feed_streams", "Open feed streams", hub.open.all().len() as u64)?;
        let peers = hub.peers.all();
        let connected = peers.iter().filter(|peer| peer.sidecar.is_some()).count();
        gauges.one("peers_found", "Other sidecars that discovery tells of", peers.len() as u64)?;
        gauges.one("peers_connected", "Other sidecars that are followed", connected as u64)?;
        gauges.one("peers_following", "Other sidecars that follow this one", hub.peers.following() as u64)?;
        let views = hub.memories.all();
        let numbers: Vec<_> = views
            .iter()
            .map(|((plugin, fingerprint), shared, _)| {
                let memory = shared.lock();
                let labels = [("plugin", plugin.clone()), ("fingerprint", format!("{fingerprint:016x}"))];
                (labels, memory.view().index().entries() as u64, memory.view().in_flight() as u64)
            })
            .collect();
        let entries = numbers.iter().map(|(labels, entries, _)| (labels.clone(), *entries));
        gauges.family("view_entries", "Prefix boundaries that a view holds", entries)?;
        let in_flight = numbers.into_iter().map(|(labels, _, in_flight)| (labels, in_flight));
        gauges.family("view_in_flight", "Requests in flight, by the journal", in_flight)
    }
}

fn discovery(gauges: &mut Gauges<'_, '_>, sources: &[Arc<Standing>], now: Millis) -> fmt::Result {
    let reports: Vec<_> = sources.iter().map(|source| source.report()).collect();
    let labels = |report: &standing::Report| [("source", report.name.clone())];
    let synced = reports.iter().map(|report| (labels(report), u64::from(report.synced)));
    gauges.family("discovery_synced", "1 while the source of endpoints is read and followed", synced)?;
    let found = reports.iter().map(|report| (labels(report), report.endpoints as u64));
    gauges.family("discovery_endpoints", "Endpoints that the source has found", found)?;
    let age = reports.iter().filter_map(|report| Some((labels(report), now.since(report.changed?).0)));
    gauges.family("discovery_event_age_seconds", "Time since the source last told of anything", age)
}

fn endpoints(gauges: &mut Gauges<'_, '_>, published: &Published) -> fmt::Result {
    let all = &published.table.endpoints;
    let count = |state| all.iter().filter(|e| e.state == state).count() as u64;
    let states = STATES.map(|state| ([("state", state.name().to_owned())], count(state)));
    gauges.family("endpoints", "Endpoints by state", states)?;
    let each = |value: fn(&Endpoint) -> f64| all.iter().map(move |e| (labels(e), value(e)));
    gauges.family("endpoint_running", "Requests running at the last scrape", each(|e| f64::from(e.load.running)))?;
    gauges.family("endpoint_waiting", "Requests waiting at the last scrape", each(|e| f64::from(e.load.waiting)))?;
    gauges.family("endpoint_kv_usage", "KV cache in use, 0 to 1", each(|e| f64::from(e.load.kv_usage)))?;
    let states = all.iter().flat_map(|e| {
        STATES.map(|state| {
            let [endpoint, pool, rank] = labels(e);
            ([endpoint, pool, rank, ("state", state.name().to_owned())], u64::from(e.state == state))
        })
    });
    gauges.family("endpoint_state", "1 for the state that the endpoint is in", states)
}

/// What concerns a pod and not one of its ranks: `rank` is empty, so that a sum over endpoints counts it once.
fn pods(gauges: &mut Gauges<'_, '_>, published: &Published) -> fmt::Result {
    let labels = |pod: &Pod| {
        [("endpoint", pod.found.address.clone()), ("pool", pod.found.pool.clone()), ("rank", String::new())]
    };
    let reports = || published.pods.iter().filter_map(|pod| Some((labels(pod), pod.report.as_ref()?)));
    let took = |(labels, report): (_, &Report)| Some((labels, report.took?.as_secs_f64()));
    gauges.family(
        "endpoint_scrape_seconds",
        "Time until the last scrape was answered or failed",
        reports().filter_map(took),
    )?;
    let errors = reports().flat_map(|([endpoint, pool, rank], report)| {
        let of = Outcome::FAILURES.into_iter().zip(report.failures);
        of.map(move |(cause, count)| {
            ([endpoint.clone(), pool.clone(), rank.clone(), ("cause", cause.name().to_owned())], count)
        })
    });
    gauges.counters("endpoint_scrape_errors", "Scrapes of the pod that were no success, by cause", errors)
}

/// What the journals say of an endpoint, over all views.
#[derive(Clone, Copy, Debug, Default)]
struct Believed {
    warm_tokens: u64,
    in_flight: u64,
}

fn believed_of(hub: &Hub) -> HashMap<EndpointId, Believed> {
    let mut all: HashMap<EndpointId, Believed> = HashMap::new();
    for (_, shared, _) in hub.memories.all() {
        let memory = shared.lock();
        let view = memory.view();
        for (slot, known) in view.endpoints() {
            let believed = all.entry(known.endpoint.id).or_default();
            believed.warm_tokens += warm_tokens(view, slot).0;
            believed.in_flight += u64::from(known.load.in_flight());
        }
    }
    all
}

fn believed(gauges: &mut Gauges<'_, '_>, published: &Published, of: &HashMap<EndpointId, Believed>) -> fmt::Result {
    let all = &published.table.endpoints;
    let capacity = all.iter().map(|e| (labels(e), e.capacity.0));
    gauges.family("endpoint_capacity_tokens", "Size of the KV cache; 0 when not known", capacity)?;
    let each = |value: fn(&Believed) -> u64| {
        all.iter().map(move |e| (labels(e), value(&of.get(&e.id).copied().unwrap_or_default())))
    };
    let warm = each(|believed| believed.warm_tokens);
    gauges.family("endpoint_predicted_warm_tokens", "Prompt tokens that it is believed to hold", warm)?;
    gauges.family("endpoint_in_flight", "Requests in flight, by the journal", each(|believed| believed.in_flight))
}

fn labels(endpoint: &Endpoint) -> [(&'static str, String); 3] {
    let rank = endpoint.rank.map(|r| r.to_string()).unwrap_or_default();
    [("endpoint", endpoint.address.clone()), ("pool", endpoint.pool.clone()), ("rank", rank)]
}

struct Gauges<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Gauges<'_, '_> {
    fn one(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn family<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Counters that are kept elsewhere.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }
}
