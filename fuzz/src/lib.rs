//! What the targets share: how input is cut into chunks, what may be allocated, and things of small numbers so that
//! they meet.

use arbitrary::Arbitrary;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use warmpath_core::index::Extent;
use warmpath_core::journal::{Body, Record};
use warmpath_core::placement::Reason;
use warmpath_core::prefix::Boundary;
use warmpath_core::table::{Endpoint, Load, PrefixCounters, State, Table};
use warmpath_core::units::{EndpointId, Millis, Origin, PrefixHash, RequestId, ResponseKey, Seconds, Tokens};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs a reader of `len` bytes and fails if it allocates more, all in all, than `per_byte` bytes for each and `fixed`.
pub fn bounded<T>(len: usize, per_byte: usize, fixed: usize, read: impl FnOnce() -> T) -> T {
    let region = Region::new(ALLOCATOR);
    let out = read();
    let used = region.change().bytes_allocated;
    assert!(used <= len * per_byte + fixed, "{used} bytes allocated for {len}");
    out
}

/// `bytes` in chunks of these sizes by turns; some may be empty.
pub fn chunks<'a>(mut bytes: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let stuck = sizes.iter().all(|size| *size == 0);
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let size = if stuck { 1 } else { usize::from(*sizes.next()?) };
        let (chunk, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        Some(chunk)
    })
}

/// One of few endpoints.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Who(u8);

impl From<Who> for EndpointId {
    fn from(who: Who) -> Self {
        Self(u64::from(who.0 % 6))
    }
}

/// A moment: mostly near the others, now and then any.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum When {
    Near(u16),
    Far(u64),
}

impl From<When> for Millis {
    fn from(when: When) -> Self {
        match when {
            When::Near(ms) => Self(1_000_000 + u64::from(ms)),
            When::Far(ms) => Self(ms),
        }
    }
}

/// Few hashes, so that prompts share beginnings and contradict each other.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Cut {
    hash: u8,
    step: u16,
    wild: bool,
}

fn boundaries(cuts: &[Cut]) -> Vec<Boundary> {
    let mut end = 0_u32;
    let mut boundary = |cut: &Cut| {
        end = if cut.wild { u32::from(cut.step) << 16 } else { end.saturating_add(u32::from(cut.step)) };
        Boundary { hash: PrefixHash(u64::from(cut.hash)), end }
    };
    cuts.iter().map(&mut boundary).collect()
}

/// A record of any kind.
#[derive(Arbitrary, Clone, Debug)]
pub struct Happened {
    origin: bool,
    number: u8,
    at: When,
    what: What,
}

#[derive(Arbitrary, Clone, Debug)]
enum What {
    Route { to: Who, bytes: u32, stream: bool, cuts: Vec<Cut> },
    Extend { bytes: u32, cuts: Vec<Cut> },
    FirstToken { ttft: f64 },
    Done { prompt: Option<u32>, cached: Option<u64>, output: Option<u64> },
    Void { failed: bool },
    Warm { who: Who, continues: bool, gaps: bool, cuts: Vec<Cut> },
    Stored { response: u8, who: Who },
    Decided { prompt: u64, matched: u64, predicted: f64, steered: bool },
    Table { version: u64 },
    RefillWanted,
}

impl From<Happened> for Record {
    fn from(happened: Happened) -> Self {
        let body = match happened.what {
            What::Route { to, bytes, stream, cuts } => {
                Body::Route { endpoint: to.into(), bytes, stream, boundaries: boundaries(&cuts), late_ms: 0 }
            }
            What::Extend { bytes, cuts } => Body::Extend { bytes, boundaries: boundaries(&cuts) },
            What::FirstToken { ttft } => Body::FirstToken { ttft: Seconds(ttft) },
            What::Done { prompt, cached, output } => Body::Done {
                prompt: prompt.map(|n| Tokens(n.into())),
                cached: cached.map(Tokens),
                output: output.map(Tokens),
            },
            What::Void { failed } => Body::Void { failed },
            What::Warm { who, continues, gaps, cuts } => {
                Body::Warm { endpoint: who.into(), extent: Extent { continues, gaps }, boundaries: boundaries(&cuts) }
            }
            What::Stored { response, who } => {
                Body::Stored { response: ResponseKey(response.into()), endpoint: who.into() }
            }
            What::Decided { prompt, matched, predicted, steered } => Body::Decided {
                reason: Reason::Warm,
                steered,
                prompt: Tokens(prompt),
                matched: Tokens(matched),
                predicted: Seconds(predicted),
            },
            What::Table { version } => Body::Table { version },
            What::RefillWanted => Body::RefillWanted,
        };
        let request = RequestId { origin: Origin(happened.origin.into()), number: (happened.number % 16).into() };
        Self { request, at: happened.at.into(), body }
    }
}

/// A row of a table.
#[derive(Arbitrary, Clone, Debug)]
pub struct Row {
    who: Who,
    host: u8,
    rank: Option<u8>,
    pool: bool,
    serves: bool,
    state: u8,
    block_size: u32,
    capacity: u64,
    small: bool,
    running: u32,
    waiting: u32,
    kv_usage: f32,
    queries: u64,
    hits: u64,
}

impl From<Row> for Endpoint {
    fn from(row: Row) -> Self {
        Self {
            id: row.who.into(),
            address: format!("10.0.0.{}:80", row.host % 8),
            rank: row.rank.map(|rank| u32::from(rank % 4)),
            pool: if row.pool { "p" } else { "" }.to_owned(),
            models: if row.serves { vec!["m".to_owned()] } else { Vec::new() },
            state: match row.state % 6 {
                1 => State::Late,
                2 => State::Draining,
                3 => State::Failing,
                _ => State::Ready,
            },
            block_size: row.block_size,
            capacity: Tokens(if row.small { row.capacity % 4096 } else { row.capacity }),
            load: Load { running: row.running, waiting: row.waiting, kv_usage: row.kv_usage },
            adapters: Vec::new(),
            counters: PrefixCounters { queries: Tokens(row.queries), hits: Tokens(row.hits) },
        }
    }
}

/// A table of these rows.
pub fn table(version: u64, at: When, rows: Vec<Row>) -> Table {
    Table { version, written_at: at.into(), endpoints: rows.into_iter().map(Endpoint::from).collect() }
}
