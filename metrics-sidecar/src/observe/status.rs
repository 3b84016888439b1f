//! The status page: what the sidecar knows, as JSON. The same types read it again for `warmpath status`.

use super::Pages;
use super::traffic::{Traffic, TrafficStatus};
use crate::clock::wall;
use crate::discovery::standing;
use crate::hub::Hub;
use crate::table::{Pod, Published, endpoints};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use warmpath_core::index::Slot;
use warmpath_core::units::{Millis, Tokens};
use warmpath_core::view::{Known, View};

/// The page. Ages and spans are in seconds.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Status {
    /// Version of the sidecar.
    pub version: String,
    /// Since it was started.
    pub uptime_s: f64,
    /// Whether a table was published.
    pub ready: bool,
    /// The newest table.
    pub table: Option<TableStatus>,
    /// Where endpoints come from.
    pub sources: Vec<SourceStatus>,
    /// The discovered pods.
    pub pods: Vec<PodStatus>,
    /// The open feed streams.
    pub feeds: Vec<FeedStatus>,
    /// The sidecars of the gateway's other replicas.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// What came of the journals.
    #[serde(default)]
    pub journal: JournalStatus,
    /// What was routed where, for each plugin.
    pub views: Vec<ViewStatus>,
}

/// What came of the journals of all Envoys that have been connected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct JournalStatus {
    /// Slots folded.
    pub slots: u64,
    /// Records in them.
    pub records: u64,
    /// Slots that could not be read.
    pub bad_slots: u64,
    /// Slots that never came.
    pub lost_slots: u64,
}

/// The newest table.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct TableStatus {
    /// Its version.
    pub version: u64,
    /// Since it was built.
    pub age_s: f64,
}

/// A source of endpoints.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct SourceStatus {
    /// The option that asked for it.
    pub name: String,
    /// Whether it is read and followed. If not, its last endpoints stay in force.
    pub synced: bool,
    /// How many endpoints it has found.
    pub endpoints: usize,
    /// Since it last told of anything.
    pub event_age_s: Option<f64>,
    /// Since it is not followed.
    pub failing_s: Option<f64>,
    /// Why not.
    pub error: Option<String>,
    /// What is odd with what was found.
    pub remarks: Vec<String>,
}

/// The sidecar of another replica.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct PeerStatus {
    /// `ip:port`
    pub address: String,
    /// Whether it is followed.
    pub connected: bool,
    /// Since then, or since it was last tried in vain.
    pub age_s: f64,
    /// Why it is not followed.
    pub error: Option<String>,
    /// Journal slots that came.
    pub slots: u64,
}

/// A pod.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct PodStatus {
    /// `ip:port` as Envoy knows it.
    pub address: String,
    /// Where it is scraped.
    pub scrape: String,
    /// Its pool.
    pub pool: String,
    /// Its name, where discovery knows one.
    pub name: Option<String>,
    /// Its UID, where discovery knows one.
    pub uid: Option<String>,
    /// Its labels, where discovery knows them.
    pub labels: BTreeMap<String, String>,
    /// Whether discovery says that it is not ready, and gets no requests.
    pub unready: bool,
    /// How its last scrape ended.
    pub last_scrape: Option<String>,
    /// What went wrong there.
    pub error: Option<String>,
    /// Since its last good scrape.
    pub last_success_s: Option<f64>,
    /// Models and adapters that it serves.
    pub models: Vec<String>,
    /// Of these, adapters on its GPU, the most recently used first.
    pub adapters: Vec<String>,
    /// Its caches.
    pub endpoints: Vec<EndpointStatus>,
}

/// A row of the table.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct EndpointStatus {
    /// Identity of the cache, hexadecimal.
    pub id: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// ready, late, draining or failing.
    pub state: String,
    /// Whether it may be chosen.
    pub choosable: bool,
    /// Requests running at the last scrape.
    pub running: u32,
    /// Requests waiting at the last scrape.
    pub waiting: u32,
    /// KV cache in use, 0 to 1.
    pub kv_usage: f32,
    /// Tokens in a block; 0 when not known.
    pub block_size: u32,
    /// Tokens in the whole cache; 0 when not known.
    pub capacity_tokens: u64,
    /// Of the tokens looked up in its prefix cache since it started, the share that was found.
    pub hit_ratio: Option<f64>,
    /// Tokens looked up in its prefix cache since it started.
    #[serde(default)]
    pub queried_tokens: f64,
    /// Tokens found there.
    #[serde(default)]
    pub hit_tokens: f64,
}

/// A feed stream.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct FeedStatus {
    /// Envoy's side of the connection.
    pub peer: String,
    /// The plugin.
    pub plugin: String,
    /// The Envoy process, hexadecimal.
    pub origin: String,
    /// Since it connected.
    pub age_s: f64,
    /// Journal slots that came.
    pub journal_slots: u64,
    /// Records in them.
    #[serde(default)]
    pub journal_records: u64,
    /// Tables sent.
    pub tables: u64,
    /// Refills sent.
    pub refills: u64,
}

/// A view.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct ViewStatus {
    /// The plugin.
    pub plugin: String,
    /// Fingerprint of its boundaries and hashes, hexadecimal.
    pub fingerprint: String,
    /// Streams that feed it.
    pub streams: usize,
    /// Whether the filter has told its configuration. If not, `mode`, `steer_percent` and explanations are those of the
    /// defaults.
    #[serde(default)]
    pub config_known: bool,
    /// off, shadow or steer.
    #[serde(default)]
    pub mode: String,
    /// Share of the requests that `steer` steers.
    #[serde(default)]
    pub steer_percent: f64,
    /// Boundaries that it holds.
    pub entries: usize,
    /// Boundaries that it has dropped for want of room.
    pub evicted: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Learned bytes a token.
    pub bytes_per_token: f64,
    /// Learned prefill rate, tokens a second.
    pub prefill_rate: f64,
    /// Equal for views that hold the same, hexadecimal.
    pub digest: String,
    /// What the journal says of each endpoint.
    pub endpoints: Vec<BelievedStatus>,
    /// What its requests came to: of this sidecar's own Envoys.
    #[serde(default)]
    pub traffic: TrafficStatus,
}

/// What the journal says of an endpoint.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct BelievedStatus {
    /// `ip:port`.
    pub address: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// Requests routed there, ever.
    pub routed: u64,
    /// Requests in flight, and of these past their first token.
    pub in_flight: u32,
    /// See above.
    pub decoding: u32,
    /// Prompt tokens that it is believed to hold.
    pub cached_tokens: u64,
    /// Tokens that the requests in flight hold.
    pub held_tokens: u64,
    /// Time until a new prefill could begin.
    pub backlog_s: f64,
    /// Time until a small prompt would fit into its KV cache.
    pub kv_wait_s: f64,
}

/// The page as of now, as JSON. `points` is how many of the newest points of each view's series are in it.
#[must_use]
pub fn text(pages: &Pages, points: u64) -> String {
    // Cannot fail: no maps whose keys are no strings.
    serde_json::to_string(&status(pages, points)).unwrap_or_default()
}

/// The page as of now.
#[must_use]
pub fn status(pages: &Pages, points: u64) -> Status {
    let hub = &pages.hub;
    let now = hub.clock.now();
    let published = hub.tables.borrow().clone();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: now.since(hub.clock.started_at()).0,
        ready: published.is_some(),
        table: published.as_ref().map(|p| TableStatus { version: p.table.version, age_s: now.since(p.built_at).0 }),
        sources: pages.sources.iter().map(|source| source_status(source.report(), now)).collect(),
        pods: published.as_deref().map(|p| pods(p, now)).unwrap_or_default(),
        feeds: feeds(hub, now),
        peers: peers(hub, now),
        journal: hub.metrics.journal(),
        views: views(hub, &pages.traffic, points),
    }
}

fn source_status(report: standing::Report, now: Millis) -> SourceStatus {
    let (failing, error) = report.failing.unzip();
    SourceStatus {
        name: report.name,
        synced: report.synced,
        endpoints: report.endpoints,
        event_age_s: report.changed.map(|at| now.since(at).0),
        failing_s: failing.map(|since| now.since(since).0),
        error,
        remarks: report.remarks,
    }
}

fn pods(published: &Published, now: Millis) -> Vec<PodStatus> {
    published.pods.iter().map(|pod| one(pod, now)).collect()
}

fn one(pod: &Pod, now: Millis) -> PodStatus {
    let rows = endpoints(pod);
    let report = pod.report.as_ref();
    let counted = |n: usize| report.and_then(|r| r.caches.get(n)).map_or((0.0, 0.0), |c| (c.queries, c.hits));
    PodStatus {
        address: pod.found.address.clone(),
        scrape: pod.found.scrape.clone(),
        pool: pod.found.pool.clone(),
        name: pod.found.name.clone(),
        uid: pod.found.uid.clone(),
        labels: pod.found.labels.clone(),
        unready: pod.found.unready,
        last_scrape: report.and_then(|r| r.outcome).map(|o| o.name().to_owned()),
        error: report.and_then(|r| r.error.clone()),
        last_success_s: report.and_then(|r| r.last_success).map(|at| now.since(at).0),
        models: rows.first().map(|row| row.models.clone()).unwrap_or_default(),
        adapters: rows.first().map(|row| row.adapters.clone()).unwrap_or_default(),
        endpoints: rows
            .iter()
            .enumerate()
            .map(|(n, row)| (row, counted(n)))
            .map(|(row, (queried_tokens, hit_tokens))| EndpointStatus {
                id: format!("{:016x}", row.id.0),
                rank: row.rank,
                state: row.state.name().to_owned(),
                choosable: row.state.is_choosable(),
                running: row.load.running,
                waiting: row.load.waiting,
                kv_usage: row.load.kv_usage,
                block_size: row.block_size,
                capacity_tokens: row.capacity.0,
                hit_ratio: (queried_tokens > 0.0).then(|| hit_tokens / queried_tokens),
                queried_tokens,
                hit_tokens,
            })
            .collect(),
    }
}

fn feeds(hub: &Hub, now: Millis) -> Vec<FeedStatus> {
    let open = hub.open.all();
    open.iter()
        .map(|stream| FeedStatus {
            peer: stream.peer.clone(),
            plugin: stream.plugin.clone(),
            origin: format!("{:016x}", stream.origin.0),
            age_s: now.since(stream.since).0,
            journal_slots: stream.slots.load(Ordering::Relaxed),
            journal_records: stream.records.load(Ordering::Relaxed),
            tables: stream.tables.load(Ordering::Relaxed),
            refills: stream.refills.load(Ordering::Relaxed),
        })
        .collect()
}

fn peers(hub: &Hub, now: Millis) -> Vec<PeerStatus> {
    let all = hub.peers.all();
    all.into_iter()
        .map(|peer| PeerStatus {
            address: peer.address,
            connected: peer.sidecar.is_some(),
            age_s: now.since(peer.since).0,
            error: peer.error,
            slots: peer.slots,
        })
        .collect()
}

fn views(hub: &Hub, traffic: &Traffic, points: u64) -> Vec<ViewStatus> {
    let all = hub.memories.all();
    all.into_iter()
        .map(|(key, shared, streams)| {
            let traffic = traffic.status(&key, &shared, points, wall());
            let (plugin, fingerprint) = key;
            let memory = shared.lock();
            let view = memory.view();
            let config = memory.config();
            let (bytes_per_token, prefill_rate) = view.learned();
            ViewStatus {
                plugin,
                fingerprint: format!("{fingerprint:016x}"),
                streams,
                config_known: memory.config_is_known(),
                mode: config.mode.name().to_owned(),
                steer_percent: config.steer_percent,
                entries: view.index().entries(),
                evicted: view.index().evicted(),
                in_flight: view.in_flight(),
                bytes_per_token,
                prefill_rate,
                digest: format!("{:016x}", view.digest()),
                endpoints: view.endpoints().map(|(slot, known)| believed(view, slot, known)).collect(),
                traffic,
            }
        })
        .collect()
}

fn believed(view: &View, slot: Slot, known: &Known) -> BelievedStatus {
    let now = wall();
    BelievedStatus {
        address: known.endpoint.address.clone(),
        rank: known.endpoint.rank,
        routed: known.routed,
        in_flight: known.load.in_flight(),
        decoding: known.load.decoding(),
        cached_tokens: warm_tokens(view, slot).0,
        held_tokens: view.held(slot).0,
        backlog_s: known.load.backlog(view.prefill_rate(known, now), view.overhead(known), now).0,
        kv_wait_s: view.kv_pressure(known, view.index().pinned(slot), Tokens(256)).wait.0,
    }
}

/// Prompt tokens that an endpoint is believed to hold.
#[must_use]
pub fn warm_tokens(view: &View, slot: Slot) -> Tokens {
    view.tokens(u32::try_from(view.index().used(slot)).unwrap_or(u32::MAX))
}
