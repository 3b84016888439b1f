//! Folding: what each record of the journal changes.

use super::{InFlight, View, current, inverse};
use crate::index::Inserted;
use crate::journal::{Body, Record};
use crate::load::Demand;
use crate::prefix::Boundary;
use crate::units::{EndpointId, Millis, Seconds, Tokens, mix};

/// With fewer decoding requests than this a time to first token says nothing of what they add.
const FEW: u32 = 8;
/// What each decoding request adds is at least a microsecond: an average of logarithms knows no zero.
const LEAST_PER_DECODE: f64 = 1e-6;

impl View {
    /// Folds one record. `now` is the host's clock and only guards against records from the future.
    pub fn fold(&mut self, record: &Record, now: Millis) {
        let at = record.at.min(now);
        let key = (record.request.origin.0, record.request.number);
        match &record.body {
            Body::Route { endpoint, bytes, stream, boundaries, late_ms } => {
                self.route(key, *endpoint, *bytes, *stream, boundaries, at);
                self.doubt(key, Millis(at.0.saturating_sub(u64::from(*late_ms))));
            }
            Body::Extend { bytes, boundaries } => self.extend(key, *bytes, boundaries, at),
            Body::FirstToken { ttft } => self.first_token(key, *ttft, at),
            Body::Done { prompt, cached, output } => self.done(key, *prompt, *cached, *output, at),
            Body::Void { failed } => {
                if let Some(entry) = self.end(key, at)
                    && let Some(known) = current(&mut self.known, &entry)
                {
                    if *failed {
                        known.failures.failed(at);
                    }
                    self.index.retract(entry.slot, entry.last, entry.fresh);
                }
            }
            Body::Warm { endpoint, extent, boundaries } => {
                if let Some(slot) = self.by_id.get(endpoint) {
                    let restored = self.index.restore(*slot, boundaries, *extent, at);
                    self.index.ready(*slot, restored.last);
                }
            }
            Body::Stored { response, endpoint } => self.stored.add(*response, *endpoint, self.limits.max_stored),
            Body::Decided { .. } | Body::Table { .. } | Body::RefillWanted => {}
        }
        if at.since(self.last_sweep).0 > 10.0 {
            self.sweep(at);
        }
    }

    fn route(
        &mut self,
        key: (u64, u64),
        id: EndpointId,
        bytes: u32,
        streams: bool,
        boundaries: &[Boundary],
        at: Millis,
    ) {
        let Some(slot) = self.by_id.get(&id).copied() else { return };
        // A request that Envoy sent elsewhere after all is routed a second time.
        self.end(key, at);
        let tracked = self.in_flight.len() < self.limits.max_in_flight;
        let Inserted { fresh, matched, ready, used, last } = if tracked {
            self.index.insert_pinned(slot, boundaries, at)
        } else {
            self.index.insert(slot, boundaries, at)
        };
        if !boundaries.is_empty() && bytes > 0 {
            self.reuse.add(f64::from(matched.min(bytes)) / f64::from(bytes));
        }
        let uncached = self.tokens(bytes.saturating_sub(matched));
        let output = Tokens(self.output.value() as u64);
        let Some(known) = self.known(slot) else { return };
        let wait = self.kv_pressure(known, self.index.pinned(slot), uncached).wait;
        let (rate, overhead) = (self.prefill_rate(known, at), self.overhead(known));
        let idle = known.load.in_flight() == known.load.decoding();
        let alone = known.foreign == 0;
        let met = (idle && alone).then(|| known.load.decoding());
        let ttft =
            overhead.0 + known.load.backlog(rate, overhead, at).0.max(wait.0) + uncached.0 as f64 / rate.max(1.0);
        let demand = Demand {
            number: mix(key.0, key.1),
            uncached,
            pinned: Tokens(output.0.saturating_add(if boundaries.is_empty() { uncached.0 } else { 0 })),
            expected: streams.then_some(Millis(at.0.saturating_add((ttft * 1000.0) as u64))),
        };
        let Some(known) = self.known.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        known.routed += 1;
        // One that cannot be kept track of must not stay in the load for ever.
        if tracked {
            known.meter.sent(idle, streams && alone, at);
            known.load.routed(demand, rate, at);
            let entry =
                InFlight { slot, endpoint: id, at, bytes, demand, first_token: None, last, fresh, ready, used, met };
            self.in_flight.insert(key, entry);
        }
    }

    /// What was used since a request was sent may have been computed since: that the request did not find it says nothing.
    fn doubt(&mut self, key: (u64, u64), sent: Millis) {
        if let Some(entry) = self.in_flight.get_mut(&key).filter(|entry| entry.used > sent) {
            entry.ready = 0;
        }
    }

    fn extend(&mut self, key: (u64, u64), bytes: u32, boundaries: &[Boundary], at: Millis) {
        let Some(entry) = self.in_flight.get_mut(&key) else { return };
        entry.bytes = bytes;
        if let Some(slot) = self.by_id.get(&entry.endpoint) {
            self.index.unpin(*slot, entry.last, at);
            let inserted = self.index.insert_pinned(*slot, boundaries, at);
            (entry.fresh, entry.ready, entry.used) = (inserted.fresh, inserted.ready, inserted.used);
            entry.last = inserted.last;
        }
    }

    fn first_token(&mut self, key: (u64, u64), ttft: Seconds, at: Millis) {
        let Some(entry) = self.in_flight.get_mut(&key) else { return };
        if entry.first_token.replace(at).is_some() {
            return;
        }
        let entry = *entry;
        let Some(known) = current(&mut self.known, &entry) else { return };
        self.index.ready(entry.slot, entry.last);
        known.failures.answered();
        known.load.first_token(entry.demand, known.prefill.likely(&self.prefill, at), at);
        let busy = known.load.in_flight() > known.load.decoding();
        let base = Seconds(self.base.value());
        if let Some(rate) = known.meter.first_token(entry.demand.uncached, busy, base, at) {
            known.prefill.add(rate, at);
            self.prefill.add(rate);
        }
        if entry.bytes == 0 {
            // Not read: what it had to compute is not known.
            return;
        }
        let rate = known.prefill.likely(&self.prefill, at);
        let rest = ttft.0 - entry.demand.uncached.0 as f64 / rate.max(1.0);
        match entry.met {
            // A long prefill says little of the rest.
            _ if rest < 0.5 * ttft.0 => {}
            Some(decoding) if decoding < FEW => self.base.add(rest),
            Some(decoding) => self.per_decode.add(((rest - base.0) / f64::from(decoding)).max(LEAST_PER_DECODE)),
            None => {}
        }
    }

    fn done(
        &mut self,
        key: (u64, u64),
        prompt: Option<Tokens>,
        cached: Option<Tokens>,
        output: Option<Tokens>,
        at: Millis,
    ) {
        let Some(entry) = self.end(key, at) else { return };
        if let Some(known) = current(&mut self.known, &entry) {
            known.failures.answered();
        }
        self.correct(&entry, prompt, cached);
        if let Some(tokens) = output {
            self.output.add(tokens.0 as f64);
            if let Some(first) = entry.first_token {
                self.service.add(at.since(first).0);
            }
        }
        if let Some(tokens) = prompt
            && tokens.0 >= 64
            && entry.bytes > 0
        {
            self.bytes_per_token.add(f64::from(entry.bytes) / tokens.0 as f64);
            self.tokens_per_byte = inverse(&self.bytes_per_token);
        }
    }

    fn end(&mut self, key: (u64, u64), at: Millis) -> Option<InFlight> {
        let entry = self.in_flight.remove(&key)?;
        if let Some(known) = current(&mut self.known, &entry) {
            let rate = known.prefill.likely(&self.prefill, at);
            known.load.ended(entry.demand, entry.first_token.is_some(), rate, at);
            self.index.unpin(entry.slot, entry.last, at);
        }
        Some(entry)
    }

    fn sweep(&mut self, at: Millis) {
        self.last_sweep = at;
        let expiry = self.limits.in_flight_expiry;
        let over: Vec<_> = self.in_flight.iter().filter(|(_, e)| at.since(e.at) > expiry).map(|(k, _)| *k).collect();
        for key in over {
            self.end(key, at);
        }
    }
}
