//! The endpoint table: what the sidecar knows of each pod, as one value that every VM reads.
//!
//! Layout (little-endian; varints are LEB128): `"WPT"`, format byte, version u64, written_at u64 (ms), the names
//! (pools and models, each once), the endpoints (each with its length before it, so that a newer writer may append
//! fields that this reader skips), and the xxh64 of all that before. A table that does not check out is an error
//! and the one before stays in force.

use crate::codec::{Reader, Truncated, Writer};
use crate::units::{EndpointId, Millis, Tokens};
use std::collections::HashMap;
use xxhash_rust::xxh64::xxh64;

const MAGIC: &[u8; 3] = b"WPT";
const FORMAT: u8 = 1;

/// Bytes of names, each counted as often as an endpoint has it: in the encoded table every name stands once, so a small
/// one could name a long name millions of times.
const MOST_NAME_BYTES: usize = 64 << 20;

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Healthy, its metrics fresh.
    #[default]
    Ready,
    /// Healthy as far as known, but its metrics are late (a long prefill delays them): still chosen, load from the
    /// journal alone.
    Late,
    /// Terminating or asked to drain: gets no new request.
    Draining,
    /// Refused, reset, not ready, or silent for too long: gets no new request.
    Failing,
}

impl State {
    /// Whether placement may choose the endpoint.
    #[must_use]
    pub fn is_choosable(self) -> bool {
        matches!(self, Self::Ready | Self::Late)
    }

    /// The name for logs and pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Late => "late",
            Self::Draining => "draining",
            Self::Failing => "failing",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Late => 1,
            Self::Draining => 2,
            Self::Failing => 3,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Ready,
            1 => Self::Late,
            2 => Self::Draining,
            // A state that this version does not know is one that it must not choose.
            _ => Self::Failing,
        }
    }
}

/// What was seen at the last scrape of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// `vllm:num_requests_running`.
    pub running: u32,
    /// `vllm:num_requests_waiting`.
    pub waiting: u32,
    /// `vllm:kv_cache_usage_perc`, 0 to 1.
    pub kv_usage: f32,
}

/// What the engine's prefix cache counts, since the engine started (`vllm:prefix_cache_queries_total`, `…_hits_total`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounters {
    /// Prompt tokens looked up.
    pub queries: Tokens,
    /// Of these, tokens found.
    pub hits: Tokens,
}

/// One endpoint: one cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoint {
    /// Stable identity; see [`EndpointId`].
    pub id: EndpointId,
    /// `ip:port` as Envoy's cluster knows it.
    pub address: String,
    /// Data-parallel rank, when the pod has several.
    pub rank: Option<u32>,
    /// The pool it belongs to.
    pub pool: String,
    /// Models and LoRA adapters that it serves (`/v1/models`); empty when not known.
    pub models: Vec<String>,
    /// Whether it may be chosen.
    pub state: State,
    /// Tokens in one KV block; 0 when not known.
    pub block_size: u32,
    /// KV cache size (`num_gpu_blocks` x `block_size`); 0 when not known.
    pub capacity: Tokens,
    /// Load at the last scrape.
    pub load: Load,
    /// LoRA adapters that were on its GPU at the last scrape, or about to be.
    pub adapters: Vec<String>,
    /// What the prefix cache counted by then.
    pub counters: PrefixCounters,
}

/// All endpoints at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Grows with each table of one sidecar process; starts at its start time in ms, so that a restarted sidecar's
    /// tables are newer.
    pub version: u64,
    /// The sidecar's clock.
    pub written_at: Millis,
    /// The endpoints, in any order.
    pub endpoints: Vec<Endpoint>,
}

/// Why a table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Not a table at all.
    NotATable,
    /// Written in a format that this version does not read.
    UnknownFormat(u8),
    /// The checksum does not match: cut or changed on its way.
    Damaged,
}

impl From<Truncated> for TableError {
    fn from(_: Truncated) -> Self {
        Self::Damaged
    }
}

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotATable => f.write_str("not an endpoint table"),
            Self::UnknownFormat(v) => write!(f, "endpoint table format {v} is not known (this build reads {FORMAT})"),
            Self::Damaged => f.write_str("endpoint table is cut or damaged"),
        }
    }
}

impl Table {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64 + self.endpoints.len() * 64);
        for b in MAGIC {
            w.u8(*b);
        }
        w.u8(FORMAT);
        w.u64(self.version);
        w.u64(self.written_at.0);
        let mut names = Names::default();
        let mut body = Writer::with_capacity(self.endpoints.len() * 64);
        let mut one = Vec::new();
        for endpoint in &self.endpoints {
            one.clear();
            one = endpoint.encode(&mut names, one);
            body.bytes(&one);
        }
        w.varint(names.list.len() as u64);
        for name in &names.list {
            w.str(name);
        }
        w.varint(self.endpoints.len() as u64);
        let mut bytes = w.finish();
        bytes.extend_from_slice(body.as_slice());
        let sum = xxh64(&bytes, 0);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The version of an encoded table, without reading the rest.
    #[must_use]
    pub fn peek_version(bytes: &[u8]) -> Option<u64> {
        let mut r = Reader::new(bytes);
        (r.take(3).ok()? == MAGIC && r.u8().ok()? == FORMAT).then(|| r.u64().ok())?
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`TableError`] when the bytes are not a table, of an unknown format, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let mut r = Reader::new(bytes);
        if r.take(3).map_err(|_| TableError::NotATable)? != MAGIC {
            return Err(TableError::NotATable);
        }
        let format = r.u8()?;
        if format != FORMAT {
            return Err(TableError::UnknownFormat(format));
        }
        let end = bytes.len().checked_sub(8).ok_or(TableError::Damaged)?;
        let (content, sum) = bytes.split_at_checked(end).ok_or(TableError::Damaged)?;
        if Reader::new(sum).u64()? != xxh64(content, 0) {
            return Err(TableError::Damaged);
        }
        let mut r = Reader::new(content);
        r.take(4)?;
        let version = r.u64()?;
        let written_at = Millis(r.u64()?);
        let names = (0..r.count(1)?).map(|_| r.str()).collect::<Result<Vec<_>, _>>()?;
        let mut room = MOST_NAME_BYTES;
        let endpoints = (0..r.count(1)?)
            .map(|_| Endpoint::decode(Reader::new(r.bytes()?), &names, &mut room))
            .collect::<Result<Vec<_>, Truncated>>()?;
        Ok(Self { version, written_at, endpoints })
    }
}

#[derive(Default)]
struct Names {
    list: Vec<String>,
    known: HashMap<String, u64>,
}

impl Names {
    fn number(&mut self, name: &str) -> u64 {
        if let Some(n) = self.known.get(name) {
            return *n;
        }
        let n = self.list.len() as u64;
        self.list.push(name.to_owned());
        self.known.insert(name.to_owned(), n);
        n
    }
}

impl Endpoint {
    fn encode(&self, names: &mut Names, onto: Vec<u8>) -> Vec<u8> {
        let mut w = Writer::onto(onto);
        w.u64(self.id.0);
        w.str(&self.address);
        w.varint(self.rank.map_or(0, |r| u64::from(r) + 1));
        w.varint(names.number(&self.pool));
        w.varint(self.models.len() as u64);
        for model in &self.models {
            w.varint(names.number(model));
        }
        w.u8(self.state.code());
        w.varint(u64::from(self.block_size));
        w.varint(self.capacity.0);
        w.varint(u64::from(self.load.running));
        w.varint(u64::from(self.load.waiting));
        w.u32(self.load.kv_usage.to_bits());
        w.varint(self.adapters.len() as u64);
        for adapter in &self.adapters {
            w.varint(names.number(adapter));
        }
        w.varint(self.counters.queries.0);
        w.varint(self.counters.hits.0);
        w.finish()
    }

    fn decode(mut r: Reader<'_>, names: &[&str], room: &mut usize) -> Result<Self, Truncated> {
        let mut name = |n: u64| {
            let n = usize::try_from(n).map_err(|_| Truncated)?;
            let name = names.get(n).ok_or(Truncated)?;
            *room = room.checked_sub(name.len()).ok_or(Truncated)?;
            Ok::<_, Truncated>((*name).to_owned())
        };
        Ok(Self {
            id: EndpointId(r.u64()?),
            address: r.str()?.to_owned(),
            rank: r.varint32()?.checked_sub(1),
            pool: name(r.varint()?)?,
            models: (0..r.count(1)?).map(|_| name(r.varint()?)).collect::<Result<_, _>>()?,
            state: State::from_code(r.u8()?),
            block_size: r.varint32()?,
            capacity: Tokens(r.varint()?),
            load: Load {
                running: r.varint32()?,
                waiting: r.varint32()?,
                kv_usage: Some(f32::from_bits(r.u32()?)).filter(|v| v.is_finite()).unwrap_or(0.0),
            },
            // A writer of before these were added ends here.
            adapters: if r.remaining() == 0 {
                Vec::new()
            } else {
                (0..r.count(1)?).map(|_| name(r.varint()?)).collect::<Result<_, _>>()?
            },
            counters: if r.remaining() == 0 {
                PrefixCounters::default()
            } else {
                PrefixCounters { queries: Tokens(r.varint()?), hits: Tokens(r.varint()?) }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        (
            any::<u64>(),
            "[0-9.]{1,12}:[0-9]{1,5}",
            proptest::option::of(0..64_u32),
            "[a-z]{0,6}",
            vec("[a-z/-]{1,10}", 0..4),
            0..4_u8,
            (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), 0.0..1.0_f32),
            (vec("[a-z/-]{1,10}", 0..3), any::<u64>(), any::<u64>()),
        )
            .prop_map(
                |(
                    id,
                    address,
                    rank,
                    pool,
                    models,
                    state,
                    (block_size, capacity, running, waiting, kv),
                    (adapters, queries, hits),
                )| Endpoint {
                    id: EndpointId(id),
                    address,
                    rank,
                    pool,
                    models,
                    state: State::from_code(state),
                    block_size,
                    capacity: Tokens(capacity),
                    load: Load { running, waiting, kv_usage: kv },
                    adapters,
                    counters: PrefixCounters { queries: Tokens(queries), hits: Tokens(hits) },
                },
            )
    }

    proptest! {
        #[test]
        fn a_table_comes_back_as_it_went(version: u64, at: u64, endpoints in vec(endpoint(), 0..20)) {
            let table = Table { version, written_at: Millis(at), endpoints };
            let bytes = table.encode();
            prop_assert_eq!(Table::peek_version(&bytes), Some(version));
            prop_assert_eq!(Table::decode(&bytes), Ok(table));
        }

        #[test]
        fn a_damaged_table_is_refused(endpoints in vec(endpoint(), 1..4), at: prop::sample::Index, flip in 1..=255_u8) {
            let bytes = Table { version: 7, written_at: Millis(1), endpoints }.encode();
            let mut damaged = bytes.clone();
            let i = at.index(bytes.len());
            damaged[i] ^= flip;
            prop_assert!(Table::decode(&damaged).is_err());
            prop_assert!(Table::decode(&bytes[..i]).is_err());
        }

        #[test]
        fn garbage_is_refused(bytes in vec(any::<u8>(), 0..400)) {
            prop_assert!(Table::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_small_table_does_not_take_much_memory() {
        let models = vec!["m".repeat(10_000); 10_000];
        let bytes = Table { endpoints: vec![Endpoint { models, ..Endpoint::default() }], ..Table::default() }.encode();
        assert!(bytes.len() < 40_000);
        assert_eq!(Table::decode(&bytes), Err(TableError::Damaged));
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = Table::default().encode();
        bytes[3] = 9;
        assert_eq!(Table::decode(&bytes), Err(TableError::UnknownFormat(9)));
    }
}
