//! The life of one feed stream. Down goes the newest table first and whenever it changes; an Envoy that reads slowly
//! gets fewer tables, never old ones. Also down goes what other Envoys routed. Up come journal slots, which are folded
//! as they come.

use super::refill::{self, Refill};
use super::{StreamInfo, Ticket};
use crate::clock::wall;
use crate::exchange::Source;
use crate::hub::Hub;
use crate::memory::{Key, Shared};
use crate::proto::{Down, Hello, Journal, Records, Table, Up, down, up};
use crate::records::{ClockOffset, pack, packed};
use crate::shutdown::Shutdown;
use bytes::Bytes;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Status, Streaming};
use warmpath_core::journal::decode_slot;
use warmpath_core::units::{Millis, Origin};

/// How long a stream may take to say hello.
const HELLO: Duration = Duration::from_secs(5);

/// How long a stream's journal is held back for the first table: records about endpoints that no table has named yet
/// would be lost. A little longer than the keeper takes.
const FIRST_TABLE: Duration = Duration::from_secs(4);

type Out = mpsc::Sender<Result<Down, Status>>;

/// An Envoy whose streams have been gone for this long is gone itself.
const GONE: Duration = Duration::from_secs(10);

/// How long journal messages that have arrived are still read when this process ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Serves a stream until it, its reader or this process ends.
pub async fn serve(hub: &Arc<Hub>, peer: String, mut inbound: Streaming<Up>, out: Out, shutdown: Shutdown) {
    let hello = match timeout(HELLO, inbound.message()).await {
        Ok(Ok(Some(Up { kind: Some(up::Kind::Hello(hello)) }))) => hello,
        Ok(Ok(Some(_))) => return refuse(hub, &out, &peer, Status::invalid_argument("expected Hello first")),
        Ok(Ok(None) | Err(_)) => return,
        Err(_) => return refuse(hub, &out, &peer, Status::deadline_exceeded("expected Hello within 5 s")),
    };
    let memory = match hub.memories.open(&hello.plugin, hello.fingerprint, hub.clock.now()) {
        Ok(memory) => memory,
        Err(error) => return refuse(hub, &out, &peer, Status::resource_exhausted(error)),
    };
    hub.metrics.connected.inc();
    if let Err(error) = memory.lock().set_config(&hello.config) {
        tracing::warn!(peer, plugin = hello.plugin, error, "a configuration that this version does not understand");
    }
    let origin = Origin(hello.origin);
    tracing::info!(
        peer,
        plugin = hello.plugin,
        origin = hello.origin,
        position = hello.position,
        want_refill = hello.want_refill,
        "feed connected"
    );
    let ticket = hub.open.add(StreamInfo {
        peer,
        plugin: hello.plugin.clone(),
        origin,
        since: hub.clock.now(),
        slots: AtomicU64::new(0),
        records: AtomicU64::new(0),
        tables: AtomicU64::new(0),
        refills: AtomicU64::new(0),
    });
    let clock = ClockOffset::new(Millis(hello.now_ms), wall());
    let key = Arc::new((hello.plugin.clone(), hello.fingerprint));
    let session = Session { hub, key, memory, origin, clock, ticket, out };
    let why = session.run(&hello, inbound, shutdown).await;
    tracing::info!(peer = session.ticket.info.peer, plugin = hello.plugin, origin = hello.origin, why, "feed ended");
    let (hub, key) = (Arc::clone(hub), Arc::clone(&session.key));
    tokio::spawn(async move {
        tokio::time::sleep(GONE).await;
        if !hub.open.all().iter().any(|stream| stream.origin == origin) {
            hub.gone(&key, origin, Source::Envoy(origin));
        }
    });
}

fn refuse(hub: &Hub, out: &Out, peer: &str, status: Status) {
    hub.metrics.refused.inc();
    tracing::warn!(peer, reason = status.message(), "feed refused");
    // The queue is empty: nothing was sent yet.
    let _ = out.try_send(Err(status));
}

struct Session<'a> {
    hub: &'a Arc<Hub>,
    key: Arc<Key>,
    memory: Arc<Shared>,
    origin: Origin,
    /// From Envoy's clock to this host's.
    clock: ClockOffset,
    ticket: Ticket<'a>,
    out: Out,
}

impl Session<'_> {
    async fn run(&self, hello: &Hello, inbound: Streaming<Up>, shutdown: Shutdown) -> String {
        let told = self.memory.lock().take_told(self.origin).filter(|_| !hello.want_refill);
        // One that is new, or that this sidecar has told nothing, gets all that is known, and goes on from there.
        let all = told.is_none();
        let (mut told, mut refilled) = (told.unwrap_or_else(|| self.hub.exchange.end()), !all);
        let why = self.exchange(all, inbound, shutdown, &mut told, &mut refilled).await;
        if refilled {
            self.memory.lock().set_told(self.origin, told, wall());
        }
        why
    }

    /// `told` is up to where Envoy was told, `refilled` whether no refill is due or under way.
    async fn exchange(
        &self,
        all: bool,
        mut inbound: Streaming<Up>,
        shutdown: Shutdown,
        told: &mut u64,
        refilled: &mut bool,
    ) -> String {
        let mut ends = self.hub.exchange.ends();
        let mut fillings = self.memory.fillings();
        let mut tables = self.hub.tables.clone();
        let mut ended = pin!(shutdown.wait());
        let mut pace = interval(refill::pace(self.hub.refill_rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut table_due = tables.borrow_and_update().is_some();
        let mut routed_due = true;
        let first_table = Instant::now() + FIRST_TABLE;
        let mut may_fold = table_due;
        let mut refill: Option<Refill> = None;
        let mut refill_at = all.then(Instant::now);
        let mut refill_began: Option<Instant> = None;
        loop {
            *refilled = refill.is_none() && refill_at.is_none();
            tokio::select! {
                () = &mut ended => {
                    // What has arrived is lost otherwise: Envoy counts it as sent.
                    while let Ok(Ok(Some(Up { kind: Some(up::Kind::Journal(journal)) }))) =
                        timeout(LAST_WORDS, inbound.message()).await
                    {
                        self.fold(&journal);
                    }
                    return "shutdown".to_owned();
                }
                () = self.out.closed() => return "closed by Envoy".to_owned(),
                message = inbound.message(), if may_fold => {
                    let wanted = match message {
                        Ok(Some(Up { kind: Some(up::Kind::Journal(journal)) })) => self.fold(&journal),
                        // A second Hello or a kind of a later version: nothing that this version has to act on.
                        Ok(Some(_)) => false,
                        Ok(None) => return "closed by Envoy".to_owned(),
                        Err(status) => return format!("{}: {}", status.code(), status.message()),
                    };
                    if wanted {
                        refill_at = refill_at.or(Some(Self::next_refill(refill_began)));
                    }
                }
                () = sleep_until(first_table), if !may_fold => may_fold = true,
                changed = tables.changed(), if !table_due => {
                    if changed.is_err() {
                        return "no more tables".to_owned();
                    }
                    table_due = true;
                    may_fold = true;
                }
                changed = ends.changed(), if !routed_due => {
                    if changed.is_err() {
                        return "no more records".to_owned();
                    }
                    routed_due = true;
                }
                changed = fillings.changed() => {
                    if changed.is_err() {
                        return "no more peers".to_owned();
                    }
                    refill_at = refill_at.or(Some(Self::next_refill(refill_began)));
                }
                // Records about endpoints that no table has named yet would be lost, so the table goes first.
                permit = self.out.reserve(), if routed_due && may_fold && !table_due => {
                    let Ok(permit) = permit else { return "closed by Envoy".to_owned() };
                    ends.mark_unchanged();
                    let read = self.hub.exchange.read(*told);
                    *told = read.next;
                    routed_due = !read.entries.is_empty();
                    if read.lost > 0 {
                        self.hub.metrics.untold.inc_by(read.lost);
                        refill_at = refill_at.or(Some(Self::next_refill(refill_began)));
                    }
                    let of_others = |source: Source| source != Source::Envoy(self.origin);
                    let entries = read.entries.into_iter().filter(|e| e.key == self.key && of_others(e.source));
                    let slots = self.for_envoy(entries.map(|entry| entry.slot));
                    if !slots.is_empty() {
                        self.hub.metrics.routed_slots.inc_by(slots.len() as u64);
                        permit.send(Ok(message(down::Kind::Records(Records { slots, refill_done: false }))));
                    }
                }
                permit = self.out.reserve(), if table_due => {
                    let Ok(permit) = permit else { return "closed by Envoy".to_owned() };
                    let newest = tables.borrow_and_update().clone();
                    table_due = false;
                    if let Some(newest) = newest {
                        permit.send(Ok(message(down::Kind::Table(Table { table: newest.encoded.clone() }))));
                        self.ticket.info.tables.fetch_add(1, Ordering::Relaxed);
                        self.hub.metrics.tables.inc();
                    }
                }
                () = sleep_until(refill_at.unwrap_or(first_table)),
                    if refill_at.is_some() && refill.is_none() && may_fold && !table_due =>
                {
                    let next = self.refill().await;
                    refill_at = None;
                    // One that says nothing costs the ring nothing, and need not hold up the next.
                    refill_began = if next.is_empty() { refill_began } else { Some(Instant::now()) };
                    refill = Some(next);
                }
                _ = pace.tick(), if refill.is_some() && !table_due => {
                    // A full queue: the reader is slow, the next tick tries again.
                    if let (Some(rest), Ok(permit)) = (&mut refill, self.out.try_reserve()) {
                        let records = rest.next_message();
                        let (slots, done) = (records.slots.len(), records.refill_done);
                        permit.send(Ok(message(down::Kind::Records(records))));
                        self.hub.metrics.refill_slots.inc_by(slots as u64);
                        if done {
                            refill = None;
                            self.ticket.info.refills.fetch_add(1, Ordering::Relaxed);
                            self.hub.metrics.refills.inc();
                        }
                    }
                }
            }
        }
    }

    /// Folds a journal message. True when a VM asks for a refill.
    fn fold(&self, journal: &Journal) -> bool {
        let folded =
            self.hub.take_journal(&self.key, &self.memory, self.origin, self.clock, journal.position, &journal.slots);
        self.ticket.info.slots.fetch_add(folded.slots, Ordering::Relaxed);
        self.ticket.info.records.fetch_add(folded.records, Ordering::Relaxed);
        folded.refill_wanted
    }

    /// When the next refill may begin.
    fn next_refill(began: Option<Instant>) -> Instant {
        let now = Instant::now();
        began.map_or(now, |began| now.max(began + refill::SPACING))
    }

    /// Slots of this host's clock, by Envoy's clock and packed.
    fn for_envoy(&self, slots: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
        if self.clock.is_none() {
            return pack(slots);
        }
        let mut records: Vec<_> = slots.flat_map(|slot| decode_slot(&slot).unwrap_or_default()).collect();
        self.clock.reversed().apply(&mut records);
        packed(&records)
    }

    async fn refill(&self) -> Refill {
        let slots = self.hub.refill(Arc::clone(&self.memory)).await;
        let slots = self.for_envoy(slots.into_iter());
        tracing::debug!(peer = self.ticket.info.peer, plugin = self.ticket.info.plugin, slots = slots.len(), "refill");
        Refill::new(slots)
    }
}

fn message(kind: down::Kind) -> Down {
    Down { kind: Some(kind) }
}
