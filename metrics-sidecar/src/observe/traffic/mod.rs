//! What the gateway's requests came to: hit ratio, times to first token, reasons and prefixes, of the last seconds, the
//! last hour, and since this sidecar follows them. Read from the exchange as every other reader does, so that folding a
//! journal waits for nothing of it.
//!
//! Counted are requests of this sidecar's own Envoys; what peers' route is only told to [`super::events`]. A request counts
//! at the moment of its decision, its first token and its token counts when they came. Memory is bounded for each view:
//! requests in flight by `MOST_OPEN`, an hour's times to first token by about 4 MB.
//!
//! | module | job |
//! | --- | --- |
//! | [`sum`] | figures of a span of time |
//! | [`prefixes`] | which prefixes save most |
//! | [`view`] | one view's requests in flight, and what became of them |

pub mod prefixes;
pub mod sum;
pub mod view;

use crate::exchange::{Entry, Source};
use crate::hub::Hub;
use crate::memory::{Key, Shared};
use crate::observe::events::{Event, Events};
use crate::shutdown::Shutdown;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use view::ViewTraffic;
use warmpath_core::journal::decode_slot;
use warmpath_core::units::Millis;

/// How often views that are gone are looked for, and requests that are never over.
const SWEEP: Duration = Duration::from_secs(1);

/// A view's traffic, as on the status page.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct TrafficStatus {
    /// The last 10 seconds.
    pub now: Figures,
    /// The last hour.
    pub hour: Figures,
    /// Since this sidecar follows them.
    pub total: Figures,
    /// The last hour in spans of 10 seconds, oldest first; those without anything are left out.
    pub series: Vec<Point>,
    /// The prefixes that saved most of late, at most 10.
    pub prefixes: Vec<PrefixStatus>,
    /// Journal slots that the counting was too slow for, of all views.
    pub lost_slots: u64,
}

/// Figures of some requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Figures {
    /// Time that they are of.
    pub span_s: f64,
    /// Requests that were decided.
    pub requests: u64,
    /// Of these, requests whose endpoint was named to Envoy.
    pub steered: u64,
    /// Why, by name; all reasons are there.
    pub reasons: BTreeMap<String, u64>,
    /// Prompt tokens, estimated.
    pub prompt_tokens: u64,
    /// Of these, believed to be cached where they went.
    pub matched_tokens: u64,
    /// Prompt tokens as the pods counted them, of answers that tell cached ones too.
    pub true_prompt_tokens: u64,
    /// Of these, found in the cache.
    pub true_cached_tokens: u64,
    /// The share that was found.
    pub hit_ratio: Option<f64>,
    /// The share that was believed.
    pub predicted_hit_ratio: Option<f64>,
    /// Tokens that were not computed again, as believed.
    pub tokens_saved: u64,
    /// Prefill time of these, at the rate of the pods where they were cached.
    pub prefill_seconds_saved: f64,
    /// Time to first token of streams.
    pub ttft_ms: Quantiles,
    /// Of these, where at least half of the prompt was believed cached.
    pub ttft_warm_ms: Quantiles,
    /// The others.
    pub ttft_cold_ms: Quantiles,
}

/// Quantiles; none of no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Quantiles {
    /// The median.
    pub p50: Option<f64>,
    /// 90 % are below.
    pub p90: Option<f64>,
    /// 99 % are below.
    pub p99: Option<f64>,
}

/// Figures of 10 seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Point {
    /// Their beginning, counted from that of the present ones: 0, -10, …
    pub at_s: i64,
    /// As in [`Figures`].
    pub requests: u64,
    /// As in [`Figures`].
    pub steered: u64,
    /// As in [`Figures`].
    pub prompt_tokens: u64,
    /// As in [`Figures`].
    pub matched_tokens: u64,
    /// As in [`Figures`].
    pub true_prompt_tokens: u64,
    /// As in [`Figures`].
    pub true_cached_tokens: u64,
    /// Median of the time to first token.
    pub ttft_p50_ms: Option<f64>,
    /// 90 % are below.
    pub ttft_p90_ms: Option<f64>,
    /// Why; reasons without any request are left out.
    pub reasons: BTreeMap<String, u64>,
}

/// A prefix that was found often.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PrefixStatus {
    /// A digest of its hash, hexadecimal, that lasts as long as this process. Its text is nowhere.
    pub prefix: String,
    /// Its length.
    pub tokens: u64,
    /// How often it was found; what is long ago counts less.
    pub hits: u64,
    /// Tokens x hits.
    pub tokens_saved: u64,
    /// Endpoints that hold it now, as believed.
    pub endpoints: usize,
}

/// All views' traffic.
#[derive(Debug, Default)]
pub struct Traffic {
    views: Mutex<Views>,
    /// Prefixes are shown by a digest that is new with each start: with their own hash, which has no key, who guesses a
    /// prompt could find out that somebody sent it.
    digest: RandomState,
    lost: Counter,
}

type Views = HashMap<Arc<Key>, (Weak<Shared>, ViewTraffic)>;

/// The traffic of the view that `shared` is now: that of one that is gone goes with it.
fn of<'a>(views: &'a mut Views, key: &Arc<Key>, shared: &Arc<Shared>, now: Millis) -> &'a mut ViewTraffic {
    let new = || (Arc::downgrade(shared), ViewTraffic::new(now));
    let (weak, view) = views.entry(Arc::clone(key)).or_insert_with(new);
    if weak.as_ptr() != Arc::as_ptr(shared) {
        (*weak, *view) = new();
    }
    view
}

impl Traffic {
    /// With its counter of what it was too slow for.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let traffic = Self::default();
        registry.register(
            "traffic_lost_slots",
            "Journal slots that the counting of traffic was too slow for",
            traffic.lost.clone(),
        );
        traffic
    }

    /// A view's traffic. `points` is how many of the newest spans of its series are told.
    #[must_use]
    pub fn status(&self, key: &Key, shared: &Arc<Shared>, points: u64, now: Millis) -> TrafficStatus {
        let lost_slots = self.lost.get();
        let (mut status, top) = match self.lock().get(key) {
            Some((weak, view)) if weak.as_ptr() == Arc::as_ptr(shared) => view.status(points, now),
            _ => ViewTraffic::new(now).status(points, now),
        };
        status.lost_slots = lost_slots;
        let memory = shared.lock();
        let index = memory.view().index();
        let holders = |top: &prefixes::Top| {
            let mut matches = Vec::new();
            index.matches(std::slice::from_ref(&top.boundary), &mut matches);
            matches.iter().filter(|found| found.bytes > 0).count()
        };
        let shown = top.iter().map(|top| PrefixStatus {
            prefix: format!("{:016x}", self.digest.hash_one(top.boundary.hash.0)),
            tokens: top.tokens,
            hits: top.hits,
            tokens_saved: top.hits.saturating_mul(top.tokens),
            endpoints: holders(top),
        });
        status.prefixes = shown.collect();
        status
    }

    /// Counts slots as the exchange gave them, and tells what they say.
    fn take(&self, hub: &Hub, events: &Events, entries: &[Entry], now: Millis) {
        let mut views = self.lock();
        for entry in entries {
            // Looked up rarely, as each view in hand counts as used.
            if views.get(&entry.key).is_none_or(|(weak, _)| weak.strong_count() == 0) {
                let Some(shared) = hub.memories.get(&entry.key) else { continue };
                of(&mut views, &entry.key, &shared, now);
            }
            let (Some((_, view)), Ok(records)) = (views.get_mut(&entry.key), decode_slot(&entry.slot)) else {
                continue;
            };
            if view.wants_endpoints(&records, now)
                && let Some(shared) = hub.memories.get(&entry.key)
            {
                view.set_endpoints(&shared.lock(), now);
            }
            let peer = entry.source == Source::Peer;
            view.take(&records, peer, now, |record, endpoint| {
                events.send(|| Event::of(record, endpoint, &entry.key.0, peer, now));
            });
        }
    }

    fn sweep(&self, hub: &Hub, now: Millis) {
        let mut views = self.lock();
        views.retain(|_, (weak, _)| weak.strong_count() > 0);
        for (key, shared, _) in hub.memories.all() {
            of(&mut views, &Arc::new(key), &shared, now).sweep(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the exchange from its start, until shutdown.
pub async fn follow(hub: Arc<Hub>, traffic: Arc<Traffic>, events: Arc<Events>, shutdown: Shutdown) {
    let mut ends = hub.exchange.ends();
    let mut ended = std::pin::pin!(shutdown.wait());
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    loop {
        tokio::select! {
            () = &mut ended => return,
            changed = ends.changed() => if changed.is_err() { return },
            _ = sweep.tick() => traffic.sweep(&hub, crate::clock::wall()),
        }
        loop {
            let read = hub.exchange.read(next);
            next = read.next;
            traffic.lost.inc_by(read.lost);
            if read.entries.is_empty() {
                break;
            }
            traffic.take(&hub, &events, &read.entries, crate::clock::wall());
            tokio::task::yield_now().await;
        }
    }
}
