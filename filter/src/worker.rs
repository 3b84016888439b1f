//! What one VM knows and does: its view, its place in the journal, its decisions.
//!
//! Kept in the root context, never in statics: plugins with the same code may share one VM.

use crate::feed::{Feed, Greeting, Work, journal_prefix, tables};
use crate::host::{Host, Level, SharedData, StreamToken, random};
use crate::stats::{Counter, Gauge, Stats};
use std::cell::RefCell;
use std::rc::Rc;
use warmpath_core::config::{Config, Mode};
use warmpath_core::explain::{Explanation, Question};
use warmpath_core::journal::{ABSENT, Body, Caught, Record, Ring, Store, add_records, decode_slot, encode_slot};
use warmpath_core::placement::Priority;
use warmpath_core::prefix::{Boundary, FINGERPRINT};
use warmpath_core::request::{ApiKind, Checkpoints, Prompt, Reader};
use warmpath_core::router::{Decision, Request, Router};
use warmpath_core::table::Table;
use warmpath_core::units::{EndpointId, Millis, Origin, RequestId, Seconds, Tokens, mix};
use warmpath_core::view::View;

/// Tries of an append before it is given up: each failure means that another VM appended.
const APPEND_RETRIES: u32 = 64;
/// At most one refill is asked for in this time.
const REFILL_EVERY_MS: u64 = 10_000;

/// Records that may wait are shared when they are more bytes than this, if nothing takes them along before.
const MOST_WAITING: usize = 4096;

/// The VM that is the feed tells its mode this often: it may count again after another configuration did.
const MODE_EVERY: Seconds = Seconds(10.0);

/// One plugin in one VM.
pub struct Worker {
    host: Rc<dyn Host>,
    /// Its configuration.
    pub config: Rc<Config>,
    /// The same as JSON without what is secret in it, for the sidecar.
    told: Vec<u8>,
    /// Its stats.
    pub stats: Stats,
    /// Of the bodies that were read last.
    pub checkpoints: Checkpoints,
    view: View,
    router: Router,
    prefix: String,
    ring: Option<Ring>,
    /// A slot of records that other VMs were not told yet.
    waiting: Vec<u8>,
    origin: Origin,
    feed: Feed,
    vm: u64,
    requests: u64,
    refill_wanted: bool,
    refill_asked: Millis,
    begun: bool,
    mode_told: Millis,
}

impl Worker {
    /// A worker by this configuration, which `json` was read into. Touches nothing outside the VM: Envoy also configures a VM that it throws away.
    #[must_use]
    pub fn new(host: Rc<dyn Host>, config: Rc<Config>, json: &[u8]) -> Self {
        let vm = random();
        // Another fingerprint, another journal: a new build must not read hashes that it would compute otherwise. The same
        // for a ring of another size, whose numbers stand in other slots.
        let told = Config::without_secrets(json);
        let prefix = format!("warmpath/{}/{FINGERPRINT:x}-{}/", config.name, config.limits.journal_slots);
        Self {
            stats: Stats::new(Rc::clone(&host), &config),
            checkpoints: Checkpoints::new(random()),
            view: View::new(config.view_limits()),
            router: Router::new(&config),
            ring: None,
            waiting: Vec::new(),
            origin: Origin(0),
            feed: Feed::new(vm, &prefix, config.limits.journal_slots, &told),
            prefix,
            vm,
            requests: 0,
            refill_wanted: false,
            refill_asked: Millis(0),
            begun: false,
            mode_told: Millis(0),
            told,
            host,
            config,
        }
    }

    /// A message of the sidecar came.
    pub fn feed_message(&mut self, stream: StreamToken, bytes: &[u8]) {
        let work = self.feed.message(&*self.host, &self.stats, stream, bytes);
        self.carry_out(work, self.host.now());
    }

    /// The sidecar's stream ended.
    pub fn feed_closed(&mut self, stream: StreamToken) {
        self.feed.closed(&*self.host, &self.stats, stream, self.host.now());
    }

    /// An identity for a request.
    pub fn new_request(&mut self) -> RequestId {
        self.requests = self.requests.wrapping_add(1);
        RequestId { origin: self.origin, number: (self.vm << 32) | (self.requests & 0xffff_ffff) }
    }

    /// Shares what waits, folds, keeps the feed, sets the gauges, tells what was counted.
    pub fn tick(&mut self) {
        self.turn();
        self.stats.flush();
    }

    fn turn(&mut self) {
        if self.config.mode == Mode::Off {
            // Each time: while Envoy drains an older configuration, that one's feed tells its mode now and then.
            self.set_mode();
            return;
        }
        let now = self.host.now();
        if !std::mem::replace(&mut self.begun, true) {
            self.set_mode();
            self.feed.announce(&*self.host);
            self.warm_up(now);
        }
        self.share_waiting(now);
        self.catch_up(now, self.config.limits.fold_slots.saturating_mul(4));
        self.ask_for_refill(now);
        let greeting = Greeting {
            cluster: &self.config.sidecar_cluster,
            plugin: &self.config.name,
            config: &self.told,
            origin: self.origin,
        };
        let work = self.feed.tick(&*self.host, &self.stats, &greeting, now);
        self.carry_out(work, now);
        if self.feed.is_leading() {
            self.set_gauges(now);
        }
    }

    fn carry_out(&mut self, work: Work, now: Millis) {
        if let Some(version) = work.table {
            self.append(&[self.of_nobody(now, Body::Table { version })], now);
        }
        for payload in work.slots {
            self.append_payload(&payload, now);
        }
    }

    /// Folds what other VMs appended, at most `limit` slots.
    pub fn catch_up(&mut self, now: Millis, limit: u32) {
        if !self.open(now) {
            return;
        }
        let Some(mut ring) = self.ring.take() else { return };
        let host = Rc::clone(&self.host);
        match ring.fold(&SharedData(&*host), limit, |_, payload| self.fold_payload(payload, now)) {
            Ok(caught) => self.note(caught, now),
            Err(_) => self.stats.add(Counter::HostErrors, 1),
        }
        self.ring = Some(ring);
    }

    /// Decides where a request goes.
    pub fn decide(&mut self, request: Request<'_>, priority: Priority, now: Millis) -> Decision {
        self.catch_up(now, self.config.limits.fold_slots);
        let decision = self.router.decide(&self.config, &self.view, request, priority, now);
        self.stats.decision(decision.pool, decision.reason);
        decision
    }

    /// Says how a request would be decided now, and why.
    pub fn explain(&mut self, question: Question<'_>) -> Explanation {
        let now = self.host.now();
        self.catch_up(now, self.config.limits.fold_slots);
        self.router.explain(&self.config, &self.view, question, now)
    }

    /// Whether a decision for this request is carried out.
    #[must_use]
    pub fn steers(&self, request: RequestId) -> bool {
        let share = (mix(request.number, request.origin.0) >> 11) as f64 / (1_u64 << 53) as f64;
        self.config.mode == Mode::Steer && share * 100.0 < self.config.steer_percent
    }

    /// Appends what happened to a request.
    pub fn journal(&mut self, request: RequestId, bodies: impl IntoIterator<Item = Body>, at: Millis) {
        let records: Vec<_> = bodies.into_iter().map(|body| Record { request, at, body }).collect();
        self.append(&records, at);
    }

    /// The same, for what others need not know at once: it goes with the next append, with
    /// [`Self::share_if_quiet`], or at the next tick.
    pub fn journal_soon(&mut self, request: RequestId, bodies: impl IntoIterator<Item = Body>, at: Millis) {
        let records: Vec<_> = bodies.into_iter().map(|body| Record { request, at, body }).collect();
        self.note_own(&records);
        self.fold(&records, at);
        if self.waiting.len() > MOST_WAITING {
            self.share_waiting(at);
        }
    }

    /// The endpoint behind an address of Envoy's and a data-parallel rank, and how much of a prompt it holds.
    #[must_use]
    pub fn at_address(
        &self,
        address: &str,
        rank: Option<u32>,
        boundaries: &[Boundary],
    ) -> Option<(EndpointId, Tokens)> {
        let (slot, known) = self.view.by_address(address, rank)?;
        Some((known.endpoint.id, self.view.tokens(self.view.index().matched(slot, boundaries))))
    }

    fn append(&mut self, records: &[Record], now: Millis) {
        self.note_own(records);
        self.share_waiting(now);
        // Even what could not be shared is known here.
        self.fold(records, now);
    }

    /// Shares what waits when no other request of this VM is under way, whose records would take it along: other VMs
    /// would see a load that is no more until the next tick. `me` is held by the root and by each request.
    pub fn share_if_quiet(&mut self, me: &Rc<RefCell<Self>>, now: Millis) {
        if Rc::strong_count(me) <= 2 {
            self.share_waiting(now);
        }
    }

    fn note_own(&mut self, records: &[Record]) {
        self.stats.add(Counter::JournalAppended, records.len() as u64);
        add_records(&mut self.waiting, records);
    }

    fn share_waiting(&mut self, now: Millis) {
        if !self.waiting.is_empty() {
            let mut payload = std::mem::take(&mut self.waiting);
            self.share(&payload, now);
            payload.clear();
            self.waiting = payload;
        }
    }

    fn append_payload(&mut self, payload: &[u8], now: Millis) {
        self.share(payload, now);
        self.fold_payload(payload, now);
    }

    fn share(&mut self, payload: &[u8], now: Millis) {
        self.open(now);
        if let Some(mut ring) = self.ring.take() {
            let host = Rc::clone(&self.host);
            let result =
                ring.append(&SharedData(&*host), payload, APPEND_RETRIES, |_, other| self.fold_payload(other, now));
            match result {
                Ok(caught) => self.note(caught, now),
                Err(_) => self.stats.add(Counter::JournalErrors, 1),
            }
            self.ring = Some(ring);
        }
    }

    fn fold_payload(&mut self, payload: &[u8], now: Millis) {
        match decode_slot(payload) {
            Ok(records) => self.fold(&records, now),
            Err(_) => self.stats.add(Counter::JournalBad, 1),
        }
    }

    fn fold(&mut self, records: &[Record], now: Millis) {
        for record in records {
            match record.body {
                Body::Table { version } => self.load_table(version, now),
                _ => self.view.fold(record, now),
            }
        }
    }

    fn note(&mut self, caught: Caught, now: Millis) {
        self.stats.add(Counter::JournalFolded, u64::from(caught.slots));
        if caught.lost > 0 {
            self.stats.add(Counter::JournalLost, caught.lost);
            self.load_newest_table(now);
            self.refill_wanted = true;
        }
    }

    /// Asks the sidecar, through the journal, for all that is known. Not too often: all VMs fold the answer.
    fn ask_for_refill(&mut self, now: Millis) {
        if self.refill_wanted && now.0.saturating_sub(self.refill_asked.0) >= REFILL_EVERY_MS {
            self.refill_wanted = false;
            self.refill_asked = now;
            self.append(&[self.of_nobody(now, Body::RefillWanted)], now);
        }
    }

    fn of_nobody(&self, at: Millis, body: Body) -> Record {
        Record { request: RequestId { origin: self.origin, number: 0 }, at, body }
    }

    /// Finds the journal and the table, once. False while shared data refuses.
    fn open(&mut self, now: Millis) -> bool {
        if self.ring.is_some() {
            return true;
        }
        let host = Rc::clone(&self.host);
        let data = SharedData(&*host);
        let Some(origin) = self.process_origin(&data) else {
            self.stats.add(Counter::HostErrors, 1);
            return false;
        };
        self.origin = origin;
        match Ring::open(&data, &journal_prefix(&self.prefix), self.config.limits.journal_slots) {
            Ok(ring) => self.ring = Some(ring),
            Err(_) => {
                self.stats.add(Counter::HostErrors, 1);
                return false;
            }
        }
        self.load_newest_table(now);
        if self.ring.as_ref().is_some_and(|r| r.position() > 0) {
            // The ring has gone round: what is no longer in it is with the sidecar.
            self.refill_wanted = true;
        }
        true
    }

    /// One number for all VMs of the process, drawn by the first.
    fn process_origin(&self, data: &SharedData<'_>) -> Option<Origin> {
        let key = format!("{}origin", self.prefix);
        // Two tries: a mismatch means that another VM drew it just now.
        for _ in 0..2 {
            if let Some((bytes, _)) = data.get(&key).ok()? {
                return Some(Origin(bytes.try_into().map(u64::from_le_bytes).unwrap_or(self.vm)));
            }
            if data.set(&key, &self.vm.to_le_bytes(), ABSENT).is_ok() {
                return Some(Origin(self.vm));
            }
        }
        None
    }

    fn load_newest_table(&mut self, now: Millis) {
        if let Some((version, _, bytes)) = tables(&*self.host, &self.prefix).pop() {
            self.apply_table(version, &bytes, now);
        }
    }

    /// Applies the table of that version. One that is no longer there was followed by others, whose records are on
    /// their way.
    fn load_table(&mut self, version: u64, now: Millis) {
        let found = tables(&*self.host, &self.prefix).into_iter().find(|(v, _, _)| *v == version);
        if let Some((_, _, bytes)) = found {
            self.apply_table(version, &bytes, now);
        }
    }

    fn apply_table(&mut self, version: u64, bytes: &[u8], now: Millis) {
        if version == 0 || version == self.view.table_version() {
            return;
        }
        match Table::decode(bytes) {
            Ok(table) => self.view.apply_table(&table, now),
            Err(error) => {
                self.stats.add(Counter::TableErrors, 1);
                self.host.log(Level::Warn, &format!("warmpath: {error}; keeping the one before"));
            }
        }
    }

    fn set_mode(&self) {
        let percent = if self.config.mode == Mode::Steer { self.config.steer_percent } else { 0.0 };
        self.stats.set(Gauge::Mode, self.config.mode as u64);
        self.stats.set(Gauge::SteerPercent, percent.round() as u64);
    }

    fn set_gauges(&mut self, now: Millis) {
        if now.since(self.mode_told).0 >= MODE_EVERY.0 {
            self.mode_told = now;
            self.set_mode();
        }
        let (bytes_per_token, prefill_rate) = self.view.learned();
        let choosable = || self.view.endpoints().filter(|(_, k)| k.is_choosable());
        let avoided = choosable().filter(|(_, k)| k.failures.is_avoided(now)).count();
        let age = if self.view.table_version() == 0 { 0.0 } else { now.since(self.view.table_at()).0 * 1000.0 };
        for (gauge, value) in [
            (Gauge::Endpoints, self.view.endpoints().count() as u64),
            (Gauge::Choosable, choosable().count() as u64),
            (Gauge::Avoided, avoided as u64),
            (Gauge::TableAge, age as u64),
            (Gauge::IndexEntries, self.view.index().entries() as u64),
            (Gauge::IndexForgotten, self.view.forgotten()),
            (Gauge::IndexEvicted, self.view.index().evicted()),
            (Gauge::IndexCrowdedOut, self.view.index().crowded_out()),
            (Gauge::JournalLag, self.journal_lag()),
            (Gauge::InFlight, self.view.in_flight() as u64),
            (Gauge::BytesPerToken, (bytes_per_token * 1000.0) as u64),
            (Gauge::PrefillRate, prefill_rate as u64),
        ] {
            self.stats.set(gauge, value);
        }
    }

    fn journal_lag(&self) -> u64 {
        let end = self.ring.as_ref().map_or(0, Ring::position);
        self.feed.position().map_or(0, |sent| end.saturating_sub(sent))
    }

    /// V8 compiles lazily: runs a made-up request through reading, hashing and deciding before the first real one.
    fn warm_up(&mut self, now: Millis) {
        let mut reader = Reader::new(ApiKind::Chat);
        let text = "warm up the hot path \\n ".repeat(300);
        reader.feed(
            format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}").as_bytes(),
        );
        let prompt = reader.finish().unwrap_or_else(|_| Prompt::default());
        let mut view = View::new(self.config.view_limits());
        let endpoint = warmpath_core::table::Endpoint::default();
        view.apply_table(&Table { version: 1, written_at: now, endpoints: vec![endpoint] }, now);
        let request = RequestId { origin: self.origin, number: 0 };
        let body = Body::Route {
            endpoint: EndpointId(0),
            bytes: prompt.bytes,
            stream: true,
            boundaries: prompt.boundaries.clone(),
            late_ms: 0,
        };
        for record in decode_slot(&encode_slot(&[Record { request, at: now, body }])).unwrap_or_default() {
            view.fold(&record, now);
        }
        self.router.decide(&self.config, &view, Request::Prompt(&prompt), Priority::default(), now);
    }
}

impl Drop for Worker {
    /// The last request of an older configuration may end after its last tick.
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            self.share_waiting(self.host.now());
        }
        self.stats.flush();
    }
}
