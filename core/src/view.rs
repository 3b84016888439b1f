//! The view: journal and table folded into what a decision needs. Equal records in equal order give equal views, in
//! every VM and in the sidecar.

use crate::index::{Chain, HashedMap, Index, Slot};
use crate::journal::{Body, Record, encode_slot};
use crate::learned::{Average, LogAverage};
use crate::load::Demand;
use crate::table::{Endpoint, State, Table};
use crate::units::{EndpointId, Millis, Origin, PrefixHash, RequestId, ResponseKey, Seconds, Tokens, mix};
use addresses::Addresses;
use names::Names;
use stored::Stored;

/// Tokens that a request generates, and seconds from its first token to its end, until the first are seen.
const PRIOR_OUTPUT: f64 = 128.0;
const PRIOR_SERVICE: f64 = 3.0;
/// About what a [`Body::Stored`] takes in a slot.
const STORED_BYTES: usize = 42;
/// A KV cache is full from this share on: answers grow.
const FULL: f64 = 0.95;
/// From this share on, new prompts are better sent elsewhere: what is in flight comes in bursts.
const CROWDED: f64 = 0.7;
/// A wait for KV memory is at most so many service times.
const MOST_TURNS: f64 = 20.0;

/// What a prompt meets in an endpoint's KV cache. A full cache turns over once in the time that a request is served, so what
/// does not fit waits for its share of that time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvPressure {
    /// Share of the cache that requests in flight would hold with the prompt and its answer; above 1 it does not fit.
    pub full: f64,
    /// Time until it fits: service time x share of the cache beyond its end. Zero where the capacity is not known.
    pub wait: Seconds,
    /// The same for what would have to wait if the next burst came: a charge, not a time.
    pub crowding: Seconds,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    slot: Slot,
    endpoint: EndpointId,
    at: Millis,
    bytes: u32,
    demand: Demand,
    /// When its first token came: it decodes since.
    first_token: Option<Millis>,
    /// The deepest boundary that the index took in and how many were new to the endpoint: what a `void` takes back.
    last: Option<PrefixHash>,
    fresh: u32,
    /// Bytes of the prompt that a finished prefill had computed there when it was routed.
    ready: u32,
    /// When the deepest of what it held there was used before.
    used: Millis,
    /// Requests past their first token there when it was routed, if nothing was in prefill: then its first token shows
    /// the constant part of a time to first token, and what decoding adds.
    met: Option<u32>,
}

/// The view. See the module's text.
#[derive(Debug)]
pub struct View {
    limits: ViewLimits,
    index: Index,
    known: Vec<Option<Known>>,
    by_id: HashedMap<EndpointId, Slot>,
    addresses: Addresses,
    names: Names,
    stored: Stored,
    in_flight: HashedMap<(u64, u64), InFlight>,
    bytes_per_token: LogAverage,
    /// Its inverse: asked for several times an endpoint in each decision.
    tokens_per_byte: f64,
    prefill: LogAverage,
    /// Seconds: the constant part of a time to first token, and what each decoding request adds.
    base: LogAverage,
    per_decode: LogAverage,
    /// Share of the routed prompts that was held where they went.
    reuse: Average,
    /// Tokens that a request generates.
    output: LogAverage,
    /// Seconds from a request's first token to its end.
    service: LogAverage,
    table_version: u64,
    table_at: Millis,
    last_sweep: Millis,
    forgotten: u64,
}

impl View {
    /// A view that knows nothing.
    #[must_use]
    pub fn new(limits: ViewLimits) -> Self {
        Self {
            index: Index::new(limits.max_entries),
            known: Vec::new(),
            by_id: HashedMap::default(),
            addresses: Addresses::default(),
            names: Names::default(),
            stored: Stored::default(),
            in_flight: HashedMap::default(),
            bytes_per_token: LogAverage::new(limits.prior_bytes_per_token),
            tokens_per_byte: inverse(&LogAverage::new(limits.prior_bytes_per_token)),
            prefill: LogAverage::new(limits.prior_prefill_rate),
            base: LogAverage::new(limits.prior_base.0),
            per_decode: LogAverage::new(limits.prior_per_decode.0),
            reuse: Average::default(),
            output: LogAverage::new(PRIOR_OUTPUT),
            service: LogAverage::new(PRIOR_SERVICE),
            table_version: 0,
            table_at: Millis(0),
            last_sweep: Millis(0),
            forgotten: 0,
            limits,
        }
    }

    /// Takes over a table: new endpoints come, vanished ones are forgotten with all that they held.
    pub fn apply_table(&mut self, table: &Table, now: Millis) {
        self.table_version = table.version;
        self.table_at = now;
        let mut kept = vec![false; self.known.len()];
        self.names.clear();
        // Tables come ten times a second, and seldom change who is where.
        let mut moved = false;
        for endpoint in &table.endpoints {
            let slot = self.by_id.get(&endpoint.id).copied().unwrap_or_else(|| {
                moved = true;
                self.add(endpoint)
            });
            if let Some(mark) = kept.get_mut(slot.0 as usize) {
                *mark = true;
            }
            let capacity = self.capacity_bytes(endpoint);
            let held = self.held(slot);
            if let Some(known) = self.known.get_mut(slot.0 as usize).and_then(Option::as_mut) {
                // A late endpoint's figures are those of its last scrape: what is known of others' load stays.
                if endpoint.state == State::Ready {
                    let scraped = endpoint.load.running.saturating_add(endpoint.load.waiting);
                    known.foreign = scraped.saturating_sub(known.load.in_flight());
                    let ours = known.load.waiting(known.prefill.likely(&self.prefill, now), now);
                    known.foreign_waiting = endpoint.load.waiting.saturating_sub(ours);
                    let used = f64::from(endpoint.load.kv_usage) * endpoint.capacity.0 as f64;
                    known.foreign_kv = (used - held.0 as f64).max(0.0);
                }
                known.pool = self.names.intern(&endpoint.pool);
                known.models = self.names.intern_all(&endpoint.models);
                known.adapters = self.names.intern_all(&endpoint.adapters);
                moved |= known.endpoint.address != endpoint.address;
                known.endpoint = endpoint.clone();
                let tokens = endpoint.capacity.0 as f64;
                known.share_of_token = if tokens > 0.0 { 1.0 / tokens } else { 0.0 };
                // By the table's own moment: it is the same for all that fold it.
                if let Some(since) = known.counters.counters(endpoint.counters, table.written_at) {
                    self.forgotten += self.index.forget_before(slot, since);
                }
            }
            self.index.set_capacity(slot, capacity);
        }
        for (i, kept) in kept.into_iter().enumerate() {
            if !kept && let Some(known) = self.known.get_mut(i).and_then(Option::take) {
                self.index.remove_endpoint(Slot(i as u32));
                self.by_id.remove(&known.endpoint.id);
                moved = true;
            }
        }
        if moved {
            let known = self.known.iter().enumerate();
            let at = known.filter_map(|(i, k)| Some((Slot(i as u32), k.as_ref()?.endpoint.address.as_str())));
            self.addresses.set(at);
        }
    }

    fn add(&mut self, endpoint: &Endpoint) -> Slot {
        let at = self.known.iter().position(Option::is_none).unwrap_or(self.known.len());
        let slot = Slot(at as u32);
        let known = Known::new(endpoint);
        match self.known.get_mut(at) {
            Some(place) => *place = Some(known),
            None => self.known.push(Some(known)),
        }
        self.by_id.insert(endpoint.id, slot);
        self.index.add_endpoint(slot, endpoint.id, self.capacity_bytes(endpoint));
        slot
    }

    fn capacity_bytes(&self, endpoint: &Endpoint) -> u64 {
        let tokens = if endpoint.capacity.0 > 0 { endpoint.capacity } else { self.limits.default_capacity };
        (tokens.0 as f64 * self.bytes_per_token.value()) as u64
    }

    /// All that the endpoints hold, as slots of warmth-only records, each at most about `slot_bytes` long.
    #[must_use]
    pub fn refill(&self, origin: Origin, slot_bytes: usize) -> Vec<Vec<u8>> {
        let mut slots = Vec::new();
        let mut batch = Vec::new();
        let mut size = 0;
        let request = RequestId { origin, number: 0 };
        for (response, endpoint) in self.stored.iter().filter(|(_, e)| self.by_id.contains_key(e)) {
            batch.push(Record { request, at: Millis(0), body: Body::Stored { response, endpoint } });
            size += STORED_BYTES;
            if size >= slot_bytes {
                slots.push(encode_slot(&std::mem::take(&mut batch)));
                size = 0;
            }
        }
        for (i, known) in self.known.iter().enumerate() {
            let Some(known) = known else { continue };
            for Chain { used, extent, boundaries } in self.index.chains(Slot(i as u32)) {
                size += 40 + boundaries.len() * 10;
                let body = Body::Warm { endpoint: known.endpoint.id, extent, boundaries };
                batch.push(Record { request, at: used, body });
                if size >= slot_bytes {
                    slots.push(encode_slot(&std::mem::take(&mut batch)));
                    size = 0;
                }
            }
        }
        if !batch.is_empty() {
            slots.push(encode_slot(&batch));
        }
        slots
    }

    /// Canonical bytes as tokens, by what answers have shown.
    #[must_use]
    pub fn tokens(&self, bytes: u32) -> Tokens {
        Tokens((f64::from(bytes) * self.tokens_per_byte) as u64)
    }

    /// KV cache tokens that the requests in flight at an endpoint hold, or will before they are over.
    #[must_use]
    pub fn held(&self, slot: Slot) -> Tokens {
        let prompts = self.index.pinned(slot) as f64 * self.tokens_per_byte;
        Tokens((prompts as u64).saturating_add(self.known(slot).map_or(0, |k| k.load.pinned().0)))
    }

    /// What `uncached` more tokens, and what a request generates, meet in an endpoint's KV cache beside what the requests in
    /// flight hold or wait for; of prompts, that is `pinned` bytes.
    #[must_use]
    pub fn kv_pressure(&self, known: &Known, pinned: u64, uncached: Tokens) -> KvPressure {
        let held = pinned as f64 * self.tokens_per_byte + known.load.pinned().0 as f64 + known.foreign_kv;
        if known.share_of_token <= 0.0 || held <= 0.0 {
            return KvPressure { full: f64::from(known.endpoint.load.kv_usage), ..KvPressure::default() };
        }
        let full = (held + uncached.0 as f64 + self.output.value()) * known.share_of_token;
        let turn = self.service.value();
        KvPressure {
            full,
            wait: Seconds(turn * (full - FULL).clamp(0.0, MOST_TURNS)),
            crowding: Seconds(turn * (full - CROWDED).clamp(0.0, FULL - CROWDED)),
        }
    }

    /// How likely a token that is cached is asked for again, as far as routed prompts show it. 0 to 1.
    #[must_use]
    pub fn reuse(&self) -> f64 {
        self.reuse.value()
    }

    /// Tokens a second that an endpoint prefills.
    #[must_use]
    pub fn prefill_rate(&self, known: &Known, now: Millis) -> f64 {
        known.prefill.likely(&self.prefill, now)
    }

    /// The part of an endpoint's time to first token that no token of the prompt is the reason for.
    #[must_use]
    pub fn overhead(&self, known: &Known) -> Seconds {
        Seconds(self.base.value() + f64::from(known.load.decoding()) * self.per_decode.value())
    }

    /// The endpoints, with their slots.
    pub fn endpoints(&self) -> impl Iterator<Item = (Slot, &Known)> {
        self.known.iter().enumerate().filter_map(|(i, k)| Some((Slot(i as u32), k.as_ref()?)))
    }

    /// One endpoint.
    #[must_use]
    pub fn known(&self, slot: Slot) -> Option<&Known> {
        self.known.get(slot.0 as usize)?.as_ref()
    }

    /// The endpoint that Envoy knows as `address` (ip:port), of the rank that vLLM was told. A pod without ranks has one
    /// for all; of a pod with ranks that was told none, nobody knows which it took.
    #[must_use]
    pub fn by_address(&self, address: &str, rank: Option<u32>) -> Option<(Slot, &Known)> {
        let fits = |k: &Known| k.endpoint.rank.is_none() || k.endpoint.rank == rank;
        let at = self.addresses.at(address).iter();
        at.filter_map(|slot| Some((*slot, self.known(*slot)?))).find(|(_, k)| fits(k))
    }

    /// The endpoint that keeps a stored answer, while it is in the table.
    #[must_use]
    pub fn stored_at(&self, response: ResponseKey) -> Option<(Slot, &Known)> {
        let slot = self.by_id.get(&self.stored.get(response)?)?;
        Some((*slot, self.known(*slot)?))
    }

    /// The number of a pool, model or adapter that the table names.
    #[must_use]
    pub fn name(&self, name: &str) -> Option<Name> {
        self.names.get(name)
    }

    /// Whether an endpoint says that it serves that model or adapter.
    #[must_use]
    pub fn serves(&self, known: &Known, model: Name) -> bool {
        self.names.holds(known.models, model)
    }

    /// Whether it has that adapter on its GPU, or is about to.
    #[must_use]
    pub fn has_loaded(&self, known: &Known, adapter: Name) -> bool {
        self.names.holds(known.adapters, adapter)
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The version of the table in force; 0 before the first.
    #[must_use]
    pub fn table_version(&self) -> u64 {
        self.table_version
    }

    /// When the table in force came.
    #[must_use]
    pub fn table_at(&self) -> Millis {
        self.table_at
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Those of one Envoy process. When that is gone, nobody else tells of their end.
    #[must_use]
    pub fn in_flight_of(&self, origin: Origin) -> Vec<RequestId> {
        let of = self.in_flight.keys().filter(|(from, _)| *from == origin.0);
        of.map(|(_, number)| RequestId { origin, number: *number }).collect()
    }

    /// Learned bytes a token and prefill rate (tokens a second).
    #[must_use]
    pub fn learned(&self) -> (f64, f64) {
        (self.bytes_per_token.value(), self.prefill.value())
    }

    /// Equal for views that hold the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        mix(self.index.digest(), self.in_flight.len() as u64)
    }
}

/// Of bytes a token: never so many tokens that figures overflow.
fn inverse(bytes_per_token: &LogAverage) -> f64 {
    1.0 / bytes_per_token.value().max(0.1)
}

/// The endpoint of an in-flight request, unless its slot was given to another one since.
fn current<'a>(known: &'a mut [Option<Known>], entry: &InFlight) -> Option<&'a mut Known> {
    known.get_mut(entry.slot.0 as usize)?.as_mut().filter(|k| k.endpoint.id == entry.endpoint)
}

mod addresses;
mod counters;
mod fold;
mod known;
mod limits;
mod names;
mod stored;
mod truth;

pub use known::Known;
pub use limits::ViewLimits;
pub use names::Name;

#[cfg(test)]
mod tests;
