//! One view's requests: those in flight, and what became of them.

use super::TrafficStatus;
use super::prefixes::{Prefixes, Top};
use super::sum::{Decided, Ring, Sum};
use crate::memory::Memory;
use std::collections::HashMap;
use warmpath_core::journal::{Body, Record};
use warmpath_core::placement::{Reason, is_warm};
use warmpath_core::units::{EndpointId, Millis, RequestId, Seconds};

/// Requests in flight that are followed. Of others only the decision is counted.
const MOST_OPEN: usize = 65_536;

/// A request not over after this long is forgotten, as in core's view.
const LONGEST: Seconds = Seconds(600.0);

/// The last hour in spans of 10 seconds, and the last 10 seconds in spans of one.
const SPAN_MS: u64 = 10_000;
/// See above.
pub const SPANS: u64 = 360;
const RECENT_MS: u64 = 1_000;
const RECENT: u64 = 10;

/// How often the counts of prefixes are halved: they are of the last hour, more or less.
const HALVE_EVERY: Seconds = Seconds(1800.0);

/// Prefixes that are shown.
const TOP: usize = 10;

/// How old what is known of the endpoints may be; and when it is not enough, as one is not among them.
const ENDPOINTS_MS: u64 = 1_000;
const NEW_ENDPOINTS_MS: u64 = 100;

/// An endpoint, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `ip:port`.
    pub address: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// Tokens a second.
    pub prefill_rate: f64,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// When it was decided first.
    at: Millis,
    /// As it counts; a peer's does not.
    decided: Option<Decided>,
    endpoint: Option<EndpointId>,
}

/// One view's requests.
#[derive(Debug)]
pub struct ViewTraffic {
    began: Millis,
    open: HashMap<RequestId, Open>,
    total: Sum,
    hour: Ring,
    recent: Ring,
    prefixes: Prefixes,
    /// When their counts were halved last.
    halved: Millis,
    endpoints: HashMap<EndpointId, Endpoint>,
    endpoints_at: Millis,
}

impl ViewTraffic {
    /// Of a view that has come to be known now.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self {
            began: now,
            open: HashMap::new(),
            total: Sum::default(),
            hour: Ring::new(SPAN_MS, SPANS),
            recent: Ring::new(RECENT_MS, RECENT),
            prefixes: Prefixes::default(),
            halved: now,
            endpoints: HashMap::new(),
            endpoints_at: Millis(0),
        }
    }

    /// Whether what is known of the endpoints is too old for these records. Asked for rarely, as it locks the memory that
    /// the journal is folded into.
    #[must_use]
    pub fn wants_endpoints(&self, records: &[Record], now: Millis) -> bool {
        let age = now.0.saturating_sub(self.endpoints_at.0);
        let is_new = |record: &Record| match &record.body {
            Body::Route { endpoint, .. } => !self.endpoints.contains_key(endpoint),
            _ => false,
        };
        age >= ENDPOINTS_MS || (age >= NEW_ENDPOINTS_MS && records.iter().any(is_new))
    }

    /// Takes over what is known of the endpoints.
    pub fn set_endpoints(&mut self, memory: &Memory, now: Millis) {
        let view = memory.view();
        let endpoints = view.endpoints().map(|(_, known)| {
            let (address, rank) = (known.endpoint.address.clone(), known.endpoint.rank);
            (known.endpoint.id, Endpoint { address, rank, prefill_rate: view.prefill_rate(known, now) })
        });
        self.endpoints = endpoints.collect();
        self.endpoints_at = now;
    }

    /// Takes the records of a slot. `tell` hears each that says something of a request, with where that is; of a peer's
    /// requests nothing else comes.
    pub fn take(
        &mut self,
        records: &[Record],
        peer: bool,
        now: Millis,
        mut tell: impl FnMut(&Record, Option<&Endpoint>),
    ) {
        // Who is over if nothing else in this slot says otherwise.
        let mut over = Vec::new();
        for record in records {
            let id = record.request;
            let at = record.at.min(now);
            match &record.body {
                Body::Decided { reason, steered, prompt, matched, .. } => {
                    let (reason, steered, prompt, matched) = (*reason, *steered, *prompt, *matched);
                    let decided = Decided { reason, steered, prompt, matched, saved: Seconds(0.0) };
                    self.decided(id, decided, peer, at, now);
                    if reason == Reason::Shed {
                        // It reached no pod, so its tokens do not count.
                        self.void(id, now);
                        over.push(id);
                    }
                }
                Body::Route { endpoint, bytes, boundaries, .. } => {
                    over.retain(|other| *other != id);
                    if let Some(decided) = self.routed(id, *endpoint, now) {
                        self.prefixes.found(boundaries, *bytes, decided.prompt, decided.matched);
                    }
                }
                Body::FirstToken { ttft } => {
                    if let Some(decided) = self.open.get(&id).and_then(|open| open.decided) {
                        let warm = is_warm(decided.matched, decided.prompt);
                        self.count(at, now, |sum| sum.first_token(warm, *ttft));
                    }
                }
                Body::Done { prompt, cached, .. } => {
                    over.push(id);
                    if let (Some(prompt), Some(cached)) = (prompt, cached)
                        && !peer
                    {
                        self.count(at, now, |sum| sum.told(*prompt, *cached));
                    }
                }
                Body::Void { .. } => {
                    over.push(id);
                    self.void(id, now);
                }
                _ => continue,
            }
            let endpoint = self.open.get(&id).and_then(|open| open.endpoint);
            tell(record, endpoint.and_then(|id| self.endpoints.get(&id)));
        }
        for id in over {
            self.open.remove(&id);
        }
    }

    fn decided(&mut self, id: RequestId, decided: Decided, peer: bool, at: Millis, now: Millis) {
        let before = self.open.get(&id).copied();
        let at = before.map_or(at, |open| open.at);
        let open = Open { at, decided: (!peer).then_some(decided), endpoint: None };
        if before.is_some() || self.open.len() < MOST_OPEN {
            self.open.insert(id, open);
        }
        if peer {
            return;
        }
        self.count_again(at, now, before.and_then(|open| open.decided), decided);
    }

    /// Notes where a request went. Gives it, if it counts.
    fn routed(&mut self, id: RequestId, endpoint: EndpointId, now: Millis) -> Option<Decided> {
        let rate = self.endpoints.get(&endpoint).map_or(0.0, |endpoint| endpoint.prefill_rate);
        let known = self.open.get_mut(&id);
        let Some(open) = known else {
            // Decided by a filter that does not tell.
            if self.open.len() < MOST_OPEN {
                self.open.insert(id, Open { at: now, decided: None, endpoint: Some(endpoint) });
            }
            return None;
        };
        open.endpoint = Some(endpoint);
        let decided = open.decided.as_mut()?;
        let before = *decided;
        if rate > 0.0 {
            decided.saved = Seconds(decided.matched.0 as f64 / rate);
        }
        let (at, after) = (open.at, *decided);
        self.count_again(at, now, Some(before), after);
        Some(after)
    }

    /// It never reached where it was sent, so it saved nothing there.
    fn void(&mut self, id: RequestId, now: Millis) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let Some(before) = open.decided else { return };
        let (at, after) = (open.at, before.without_tokens());
        open.decided = Some(after);
        self.count_again(at, now, Some(before), after);
    }

    /// Counts a request as it is known now, in place of how it counted before.
    fn count_again(&mut self, at: Millis, now: Millis, before: Option<Decided>, after: Decided) {
        self.count(at, now, |sum| {
            if let Some(before) = &before {
                sum.undecided(before);
            }
            sum.decided(&after);
        });
    }

    fn count(&mut self, at: Millis, now: Millis, change: impl Fn(&mut Sum)) {
        change(&mut self.total);
        for ring in [&mut self.hour, &mut self.recent] {
            ring.at(at, now).into_iter().for_each(&change);
        }
    }

    /// Forgets requests that are never over.
    pub fn sweep(&mut self, now: Millis) {
        self.open.retain(|_, open| now.since(open.at) < LONGEST);
        if now.since(self.halved) >= HALVE_EVERY {
            self.halved = now;
            self.prefixes.halve();
        }
    }

    /// For the status page, with the prefixes that are to be shown.
    #[must_use]
    pub fn status(&self, points: u64, now: Millis) -> (TrafficStatus, Vec<Top>) {
        let age = now.since(self.began);
        let span = |ring: &Ring| if age < ring.span() { age } else { ring.span() };
        let status = TrafficStatus {
            now: self.recent.total(now).figures(span(&self.recent)),
            hour: self.hour.total(now).figures(span(&self.hour)),
            total: self.total.figures(age),
            series: self.hour.points(now, points),
            ..TrafficStatus::default()
        };
        (status, self.prefixes.top(TOP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::events::Event;
    use warmpath_core::prefix::Boundary;
    use warmpath_core::units::{Origin, PrefixHash, Tokens};

    const NOW: Millis = Millis(1_000_000);

    fn view() -> ViewTraffic {
        let mut view = ViewTraffic::new(Millis(990_000));
        for n in 1..3 {
            let endpoint = Endpoint { address: format!("10.0.0.{n}:80"), rank: None, prefill_rate: 1000.0 * n as f64 };
            view.endpoints.insert(EndpointId(n), endpoint);
        }
        view
    }

    fn record(number: u64, body: Body) -> Record {
        Record { request: RequestId { origin: Origin(1), number }, at: NOW, body }
    }

    fn decided(reason: Reason, matched: u64) -> Body {
        let (prompt, matched) = (Tokens(1000), Tokens(matched));
        Body::Decided { reason, steered: true, prompt, matched, predicted: Seconds(0.1) }
    }

    fn route(endpoint: u64) -> Body {
        let boundaries = vec![Boundary { end: 4000, hash: PrefixHash(7) }];
        Body::Route { endpoint: EndpointId(endpoint), bytes: 4000, stream: true, boundaries, late_ms: 0 }
    }

    fn done(cached: u64) -> Body {
        Body::Done { prompt: Some(Tokens(1000)), cached: Some(Tokens(cached)), output: Some(Tokens(5)) }
    }

    fn take(view: &mut ViewTraffic, peer: bool, records: &[Record]) -> Vec<serde_json::Value> {
        let mut events = Vec::new();
        view.take(records, peer, NOW, |record, endpoint| {
            let event = Event::of(record, endpoint, "p", peer, NOW).unwrap();
            events.push(serde_json::to_value(event).unwrap());
        });
        events
    }

    #[test]
    fn a_request_counts_from_its_decision_to_its_end() {
        let mut view = view();
        take(&mut view, false, &[record(1, decided(Reason::Warm, 1000)), record(1, route(2))]);
        take(&mut view, false, &[record(1, Body::FirstToken { ttft: Seconds(0.05) })]);
        let (status, top) = view.status(SPANS, NOW);
        assert_eq!((status.hour.requests, status.now.steered, status.total.reasons["warm"]), (1, 1, 1));
        assert_eq!((status.now.tokens_saved, status.now.prefill_seconds_saved), (1000, 0.5));
        assert_eq!((status.now.span_s, status.hour.span_s), (10.0, 10.0));
        assert!(status.now.ttft_warm_ms.p50.is_some() && status.now.hit_ratio.is_none());
        assert_eq!((status.series.len(), status.series[0].at_s, status.series[0].requests), (1, 0, 1));
        assert_eq!((top[0].boundary.hash, top[0].tokens), (PrefixHash(7), 1000));
        take(&mut view, false, &[record(1, done(900))]);
        assert_eq!(view.status(SPANS, NOW).0.now.hit_ratio, Some(0.9));
        assert!(view.open.is_empty());
    }

    #[test]
    fn a_request_that_went_elsewhere_counts_once_as_it_ended() {
        let mut view = view();
        take(&mut view, false, &[record(1, decided(Reason::Warm, 900)), record(1, route(1))]);
        let again =
            [record(1, Body::Void { failed: false }), record(1, decided(Reason::Warm, 100)), record(1, route(2))];
        take(&mut view, false, &again);
        let now = view.status(SPANS, NOW).0.now;
        assert_eq!((now.requests, now.prompt_tokens, now.tokens_saved), (1, 1000, 100));
        assert_eq!(now.prefill_seconds_saved, 0.05);
        // One that reached nobody is a request, but saved nothing.
        take(&mut view, false, &[record(1, Body::Void { failed: false })]);
        let now = view.status(SPANS, NOW).0.now;
        assert_eq!((now.requests, now.reasons["warm"], now.prompt_tokens, now.tokens_saved), (1, 1, 0, 0));
        assert_eq!(now.prefill_seconds_saved, 0.0);
        assert!(view.open.is_empty());
    }

    #[test]
    fn peers_requests_are_told_and_not_counted() {
        let mut view = view();
        let mut events = take(&mut view, true, &[record(1, decided(Reason::Cold, 0)), record(1, route(1))]);
        events.extend(take(
            &mut view,
            true,
            &[record(1, Body::FirstToken { ttft: Seconds(0.05) }), record(1, done(9))],
        ));
        assert_eq!(view.status(SPANS, NOW).0.total.requests, 0);
        assert_eq!(view.status(SPANS, NOW).0.total.true_prompt_tokens, 0);
        let named: Vec<_> = events.iter().map(|e| (e["event"].as_str().unwrap(), e["endpoint"].as_str())).collect();
        let there = Some("10.0.0.1:80");
        assert_eq!(named, [("decided", None), ("routed", there), ("first_token", there), ("done", there)]);
        assert!(events.iter().all(|event| event["peer"] == true && event["plugin"] == "p"));
        assert_eq!((&events[0]["reason"], &events[2]["ttft_ms"]), (&"cold".into(), &50.0.into()));
        assert!(view.open.is_empty());
    }

    #[test]
    fn what_is_refused_is_not_kept() {
        let mut view = view();
        take(&mut view, false, &[record(1, decided(Reason::Shed, 0))]);
        assert!(view.open.is_empty());
        // Unless it went on all the same, as in shadow mode.
        take(&mut view, false, &[record(2, decided(Reason::Shed, 0)), record(2, route(1))]);
        assert_eq!((view.open.len(), view.status(SPANS, NOW).0.total.reasons["shed"]), (1, 2));
    }

    #[test]
    fn what_is_kept_is_bounded_and_swept() {
        let mut view = view();
        for n in 0..70_000 {
            take(&mut view, false, &[record(n, decided(Reason::Cold, 0)), record(n, route(1))]);
        }
        assert_eq!((view.open.len(), view.status(SPANS, NOW).0.total.requests), (MOST_OPEN, 70_000));
        view.sweep(Millis(NOW.0 + 599_000));
        assert_eq!(view.open.len(), MOST_OPEN);
        view.sweep(Millis(NOW.0 + 600_000));
        assert!(view.open.is_empty());
    }

    #[test]
    fn endpoints_are_asked_for_rarely() {
        let mut view = view();
        view.endpoints_at = Millis(NOW.0 - 500);
        let wants = |view: &ViewTraffic, body, now: u64| view.wants_endpoints(&[record(1, body)], Millis(now));
        assert!(!wants(&view, route(1), NOW.0) && wants(&view, route(9), NOW.0));
        assert!(!wants(&view, route(9), NOW.0 - 450) && wants(&view, Body::Void { failed: false }, NOW.0 + 500));
    }
}
