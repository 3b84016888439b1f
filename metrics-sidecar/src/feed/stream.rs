//! The life of one feed stream. Down goes the newest table first and whenever it changes; an Envoy that reads slowly
//! gets fewer tables, never old ones. Up come journal slots, which are folded as they come.

use super::refill::{self, Refill};
use super::{Hub, StreamInfo, Ticket};
use crate::clock::wall;
use crate::memory::Shared;
use crate::proto::{Down, Hello, Journal, Table, Up, down, up};
use crate::shutdown::Shutdown;
use crate::table::Published;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Status, Streaming};
use warmpath_core::units::Origin;

/// How long a stream may take to say hello.
const HELLO: Duration = Duration::from_secs(5);

/// How long a stream's journal is held back for the first table: records about endpoints that no table has named yet
/// would be lost. A little longer than the keeper takes.
const FIRST_TABLE: Duration = Duration::from_secs(4);

type Out = mpsc::Sender<Result<Down, Status>>;

/// Serves a stream until it, its reader or this process ends.
pub async fn serve(hub: &Hub, peer: String, mut inbound: Streaming<Up>, out: Out, shutdown: Shutdown) {
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
        tables: AtomicU64::new(0),
        refills: AtomicU64::new(0),
    });
    let session = Session { hub, memory, origin, ticket, out };
    let why = session.run(&hello, inbound, shutdown).await;
    tracing::info!(peer = session.ticket.info.peer, plugin = hello.plugin, origin = hello.origin, why, "feed ended");
}

fn refuse(hub: &Hub, out: &Out, peer: &str, status: Status) {
    hub.metrics.refused.inc();
    tracing::warn!(peer, reason = status.message(), "feed refused");
    // The queue is empty: nothing was sent yet.
    let _ = out.try_send(Err(status));
}

struct Session<'a> {
    hub: &'a Hub,
    memory: Arc<Shared>,
    origin: Origin,
    ticket: Ticket<'a>,
    out: Out,
}

impl Session<'_> {
    async fn run(&self, hello: &Hello, mut inbound: Streaming<Up>, shutdown: Shutdown) -> String {
        let mut tables = self.hub.tables.clone();
        let mut ended = pin!(shutdown.wait());
        let mut pace = interval(refill::pace(self.hub.refill_rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut table_due = tables.borrow_and_update().is_some();
        let first_table = Instant::now() + FIRST_TABLE;
        let mut may_fold = table_due;
        let mut refill: Option<Refill> = None;
        let mut refill_at = hello.want_refill.then(Instant::now);
        let mut refill_began: Option<Instant> = None;
        loop {
            tokio::select! {
                () = &mut ended => return "shutdown".to_owned(),
                () = self.out.closed() => return "closed by Envoy".to_owned(),
                message = inbound.message(), if may_fold => {
                    let wanted = match message {
                        Ok(Some(Up { kind: Some(up::Kind::Journal(journal)) })) => self.fold(&journal),
                        // A second Hello or a kind of a later version: nothing that this version has to act on.
                        Ok(Some(_)) => false,
                        Ok(None) => return "closed by Envoy".to_owned(),
                        Err(status) => return format!("{}: {}", status.code(), status.message()),
                    };
                    if wanted && refill_at.is_none() {
                        let now = Instant::now();
                        refill_at = Some(refill_began.map_or(now, |began| now.max(began + refill::SPACING)));
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
                    (refill_at, refill_began) = (None, Some(Instant::now()));
                    refill = Some(self.refill().await);
                }
                _ = pace.tick(), if refill.is_some() => {
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
        let folded = {
            let mut memory = self.memory.lock();
            if let Some(published) = self.newest() {
                memory.sync(&published, wall());
            }
            memory.fold(self.origin, journal.position, &journal.slots, wall())
        };
        self.ticket.info.slots.fetch_add(folded.slots, Ordering::Relaxed);
        self.hub.metrics.folded(&folded);
        folded.refill_wanted
    }

    async fn refill(&self) -> Refill {
        let (memory, own, published) = (Arc::clone(&self.memory), self.hub.own, self.newest());
        // A full view takes tens of milliseconds to write out, which no other stream should wait for.
        let slots = tokio::task::spawn_blocking(move || {
            let mut memory = memory.lock();
            if let Some(published) = published {
                memory.sync(&published, wall());
            }
            memory.refill(own)
        });
        let slots = slots.await.unwrap_or_default();
        tracing::info!(peer = self.ticket.info.peer, plugin = self.ticket.info.plugin, slots = slots.len(), "refill");
        Refill::new(slots)
    }

    fn newest(&self) -> Option<Arc<Published>> {
        self.hub.tables.borrow().clone()
    }
}

fn message(kind: down::Kind) -> Down {
    Down { kind: Some(kind) }
}
