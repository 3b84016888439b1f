//! The stream to the sidecar. One VM of the process holds it: the leader by a heartbeat in shared data, which any VM
//! takes over when it stops (a VM that is reloaded has no ticks until traffic comes).
//!
//! Down come endpoint tables and records (a refill, what other gateways routed); up goes the journal, read from the ring by a
//! place of its own, whose position stands in the heartbeat: a new leader goes on where the last one was.

use crate::host::{Host, Level, SharedData, StreamToken};
use crate::stats::{Counter, Stats};
use prost::Message;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use warmpath_core::codec::{Reader, Writer};
use warmpath_core::journal::{ABSENT, Ring, Store, StoreError};
use warmpath_core::prefix::FINGERPRINT;
use warmpath_core::table::Table;
use warmpath_core::units::{Millis, Origin};

/// Generated from `proto/feed.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/warmpath.feed.v1.rs"));
}

/// A leader silent for this long is replaced …
const LEADER_TIMEOUT_MS: u64 = 2_000;
/// … and after this long also by a VM of an older configuration.
const ANY_LEADER_MS: u64 = 5_000;
/// How long a VM that gives up the lead waits for one of a newer configuration to take it.
const HAND_OVER_MS: u64 = 100;
/// Between two tries to open the stream.
const RETRY_MS: u64 = 500;
/// Slots sent up in one message, and bytes after which a message is full.
const BATCH_SLOTS: u32 = 512;
const BATCH_BYTES: usize = 256 * 1024;
/// Slots of records taken into the ring in one callback, so that its requests do not wait long.
const WORK_SLOTS: usize = 64;
/// Slots of records waiting for the ring; a sidecar that sends more loses them.
const MAX_WAITING: usize = 16_384;

/// How a VM presents itself to the sidecar.
pub struct Greeting<'a> {
    /// Envoy's name for the sidecar's cluster; empty when there is no sidecar.
    pub cluster: &'a str,
    /// The plugin's name.
    pub plugin: &'a str,
    /// Its configuration, without what is secret in it.
    pub config: &'a [u8],
    /// The process.
    pub origin: Origin,
}

/// What a feed asks its VM to do.
#[derive(Debug, Default)]
pub struct Work {
    /// A table was put into shared data: append its record.
    pub table: Option<u64>,
    /// Append these payloads.
    pub slots: Vec<Vec<u8>>,
}

/// One VM's part in the feed.
#[derive(Debug)]
pub struct Feed {
    vm: u64,
    prefix: String,
    slots: u32,
    leading: Option<Leading>,
    /// The configuration's hash, and the newer one for which the lead was given up.
    config: u64,
    yielded_to: Option<u64>,
}

#[derive(Debug)]
struct Leading {
    ring: Ring,
    stream: Option<StreamToken>,
    retry_at: Millis,
    greeted: bool,
    waiting: VecDeque<Vec<u8>>,
    table: Option<u64>,
}

/// The heartbeat: who leads, since when it has been silent, up to where the journal was sent.
struct Heartbeat {
    vm: u64,
    at: Millis,
    sent: u64,
}

impl Heartbeat {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        Some(Self { vm: r.u64().ok()?, at: Millis(r.u64().ok()?), sent: r.u64().ok()? })
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(24);
        w.u64(self.vm);
        w.u64(self.at.0);
        w.u64(self.sent);
        w.finish()
    }
}

/// The two keys that tables stand under by turns: a VM that folds one table's record still finds it while the next is
/// being written.
const TABLE_KEYS: [&str; 2] = ["table/a", "table/b"];

/// The tables in shared data, as (version, key, bytes), the newest last.
#[must_use]
pub fn tables(host: &dyn Host, prefix: &str) -> Vec<(u64, String, Vec<u8>)> {
    let read = |key: &&str| {
        let key = format!("{prefix}{key}");
        let bytes = host.shared_get(&key).ok().flatten().map(|(bytes, _)| bytes).unwrap_or_default();
        (Table::peek_version(&bytes).unwrap_or(0), key, bytes)
    };
    let mut tables: Vec<_> = TABLE_KEYS.iter().map(read).collect();
    tables.sort_by_key(|(version, _, _)| *version);
    tables
}

impl Feed {
    /// A VM that does not lead yet. `prefix` begins its shared-data keys.
    #[must_use]
    pub fn new(vm: u64, prefix: &str, slots: u32, config: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        config.hash(&mut hasher);
        let config = hasher.finish();
        Self { vm, prefix: prefix.to_owned(), slots, leading: None, config, yielded_to: None }
    }

    /// Says that this VM's configuration is the newest. Envoy keeps VMs of older ones for as long as connections drain,
    /// and the sidecar should not be told by those what the plugin does.
    pub fn announce(&self, host: &dyn Host) {
        let _ = host.shared_set(&self.config_key(), &self.config.to_le_bytes(), 0);
    }

    fn config_key(&self) -> String {
        format!("{}config", self.prefix)
    }

    /// The hash of a newer configuration than this VM's, if there is one.
    fn newer(&self, host: &dyn Host) -> Option<u64> {
        let (bytes, _) = host.shared_get(&self.config_key()).ok()??;
        bytes.try_into().ok().map(u64::from_le_bytes).filter(|newest| *newest != self.config)
    }

    /// Whether this VM is the feed.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// The next slot of the journal that will be sent, for the VM that leads.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.leading.as_ref().map(|lead| lead.ring.position())
    }

    /// Keeps or takes the lead, opens the stream, sends what is new.
    pub fn tick(&mut self, host: &dyn Host, stats: &Stats, greeting: &Greeting<'_>, now: Millis) -> Work {
        if greeting.cluster.is_empty() {
            self.resign(host);
            return Work::default();
        }
        self.beat(host, stats, now);
        let Some(lead) = &mut self.leading else { return Work::default() };
        if lead.stream.is_none() && now >= lead.retry_at {
            lead.retry_at = Millis(now.0 + RETRY_MS);
            lead.greeted = false;
            match host.open_stream(greeting.cluster, "warmpath.feed.v1.Feed", "Connect") {
                Ok(stream) => {
                    lead.stream = Some(stream);
                    stats.add(Counter::FeedOpened, 1);
                }
                Err(_) => stats.add(Counter::FeedClosed, 1),
            }
        }
        lead.send(host, stats, greeting, now);
        lead.work()
    }

    /// A message came on `stream`. What it asks for is due at once: other gateways' requests should not wait for a tick.
    pub fn message(&mut self, host: &dyn Host, stats: &Stats, stream: StreamToken, bytes: &[u8]) -> Work {
        let Some(lead) = self.leading.as_mut().filter(|l| l.stream == Some(stream)) else { return Work::default() };
        let kind = match proto::Down::decode(bytes) {
            Ok(down) => down.kind,
            Err(error) => {
                stats.add(Counter::TableErrors, 1);
                host.log(Level::Warn, &format!("warmpath: message from the sidecar not understood: {error}"));
                return Work::default();
            }
        };
        match kind {
            Some(proto::down::Kind::Table(message)) => match Table::decode(&message.table) {
                Ok(table) => {
                    stats.add(Counter::Tables, 1);
                    let older = tables(host, &self.prefix).into_iter().next().map(|(_, key, _)| key);
                    if older.is_some_and(|key| host.shared_set(&key, &message.table, 0).is_ok()) {
                        lead.table = Some(table.version);
                    } else {
                        stats.add(Counter::HostErrors, 1);
                    }
                }
                Err(error) => {
                    stats.add(Counter::TableErrors, 1);
                    host.log(Level::Warn, &format!("warmpath: {error}; keeping the one before"));
                }
            },
            Some(proto::down::Kind::Records(message)) => {
                let room = MAX_WAITING.saturating_sub(lead.waiting.len());
                stats.add(Counter::JournalLost, message.slots.len().saturating_sub(room) as u64);
                lead.waiting.extend(message.slots.into_iter().take(room));
            }
            None => {}
        }
        lead.work()
    }

    /// The stream ended.
    pub fn closed(&mut self, host: &dyn Host, stats: &Stats, stream: StreamToken, now: Millis) {
        if let Some(lead) = self.leading.as_mut().filter(|l| l.stream == Some(stream)) {
            // Envoy wants a stream that the other side ended to be closed here.
            host.close(stream);
            lead.stream = None;
            lead.retry_at = Millis(now.0 + RETRY_MS);
            stats.add(Counter::FeedClosed, 1);
        }
    }

    fn beat(&mut self, host: &dyn Host, stats: &Stats, now: Millis) {
        let data = SharedData(host);
        let key = format!("{}feed", self.prefix);
        let Ok(current) = data.get(&key) else { return };
        let (heartbeat, cas) = match current {
            Some((bytes, cas)) => (Heartbeat::decode(&bytes), cas),
            None => (None, ABSENT),
        };
        let mine = heartbeat.as_ref().is_some_and(|h| h.vm == self.vm);
        // A heartbeat from the future was written before the clock was stepped back.
        let led_within = |ms: u64| {
            heartbeat
                .as_ref()
                .is_some_and(|h| now.0.saturating_sub(h.at.0) < ms && h.at.0.saturating_sub(now.0) < LEADER_TIMEOUT_MS)
        };
        if !mine && led_within(LEADER_TIMEOUT_MS) {
            self.resign(host);
            return;
        }
        let newer = self.newer(host);
        if !mine && newer.is_some() && led_within(ANY_LEADER_MS) {
            self.resign(host);
            return;
        }
        // Once only: where no VM of the newer one takes the lead, it is better led by an older one than by none.
        if newer.is_some()
            && newer != self.yielded_to
            && let Some(sent) = self.position()
        {
            self.yielded_to = newer;
            self.resign(host);
            // Nobody's, and nearly over: a VM of the newer configuration takes it at its next ticks.
            let at = Millis(now.0.saturating_sub(LEADER_TIMEOUT_MS - HAND_OVER_MS));
            let _ = data.set(&key, &Heartbeat { vm: 0, at, sent }.encode(), cas);
            return;
        }
        let sent = match &self.leading {
            Some(lead) if mine => lead.ring.position(),
            _ => heartbeat.as_ref().map_or(0, |h| h.sent),
        };
        match data.set(&key, &Heartbeat { vm: self.vm, at: now, sent }.encode(), cas) {
            Ok(()) => {
                if !mine || self.leading.is_none() {
                    stats.add(Counter::FeedLeader, 1);
                    self.lead(sent);
                }
            }
            Err(StoreError::Mismatch) => self.resign(host),
            Err(StoreError::Failed) => stats.add(Counter::HostErrors, 1),
        }
    }

    fn lead(&mut self, sent: u64) {
        self.leading = Some(Leading {
            ring: Ring::at(&journal_prefix(&self.prefix), self.slots, sent),
            stream: None,
            retry_at: Millis(0),
            greeted: false,
            waiting: VecDeque::new(),
            table: None,
        });
    }

    fn resign(&mut self, host: &dyn Host) {
        if let Some(Leading { stream: Some(stream), .. }) = self.leading.take() {
            host.close(stream);
        }
    }
}

/// Where the journal's slots begin.
#[must_use]
pub fn journal_prefix(prefix: &str) -> String {
    format!("{prefix}j/")
}

impl Leading {
    fn send(&mut self, host: &dyn Host, stats: &Stats, greeting: &Greeting<'_>, now: Millis) {
        let Some(stream) = self.stream else { return };
        if !self.greeted {
            let position = self.ring.position();
            let hello = proto::Hello {
                origin: greeting.origin.0,
                plugin: greeting.plugin.to_owned(),
                position,
                // Nothing of this process's journal was ever sent: it is new, and knows nothing.
                want_refill: position == 0,
                fingerprint: FINGERPRINT,
                now_ms: now.0,
                config: greeting.config.to_vec(),
            };
            if !send(host, stream, proto::up::Kind::Hello(hello)) {
                return;
            }
            self.greeted = true;
        }
        loop {
            let mut slots = Vec::new();
            let mut bytes = 0;
            let mut first = self.ring.position();
            while bytes < BATCH_BYTES && slots.len() < BATCH_SLOTS as usize {
                let caught = self.ring.fold(&SharedData(host), 1, |sequence, payload| {
                    if slots.is_empty() {
                        first = sequence;
                    }
                    bytes += payload.len();
                    slots.push(payload.to_vec());
                });
                match caught {
                    Ok(c) if c.lost > 0 && slots.is_empty() => stats.add(Counter::JournalLost, c.lost),
                    // A message holds slots without a gap.
                    Ok(c) if c.lost > 0 => {
                        stats.add(Counter::JournalLost, c.lost);
                        break;
                    }
                    Ok(c) if !c.at_end => {}
                    _ => break,
                }
            }
            if slots.is_empty() {
                return;
            }
            let full = bytes >= BATCH_BYTES || slots.len() >= BATCH_SLOTS as usize;
            if !send(host, stream, proto::up::Kind::Journal(proto::Journal { position: first, slots })) {
                self.ring.seek(first);
                return;
            }
            if !full {
                return;
            }
        }
    }

    fn work(&mut self) -> Work {
        let n = self.waiting.len().min(WORK_SLOTS);
        Work { table: self.table.take(), slots: self.waiting.drain(..n).collect() }
    }
}

fn send(host: &dyn Host, stream: StreamToken, kind: proto::up::Kind) -> bool {
    // A failed send is followed by the stream's close, which opens a new one.
    host.send(stream, &proto::Up { kind: Some(kind) }.encode_to_vec()).is_ok()
}
