//! Records and their encoding.
//!
//! A slot's payload is a format byte and then records, each with its length before it: a reader skips what it does not
//! know. A record is: kind u8, origin u64, request number u64, moment u64 (ms), body.

use crate::codec::{Reader, Truncated, Writer};
use crate::index::Extent;
use crate::placement::Reason;
use crate::prefix::Boundary;
use crate::units::{EndpointId, Millis, Origin, PrefixHash, RequestId, ResponseKey, Seconds, Tokens};

const FORMAT: u8 = 1;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whose; for records that belong to no request, the number is 0.
    pub request: RequestId,
    /// When, by the clock of the host that appended it. A sidecar that passes it on to another host converts it.
    pub at: Millis,
    /// What.
    pub body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// What was decided for the request whose [`Body::Route`] follows, if one does. For those who look on: no view needs
    /// it. A request that went elsewhere than named is told of again; the last counts.
    Decided {
        /// Why.
        reason: Reason,
        /// Whether its endpoint was named to Envoy.
        steered: bool,
        /// Size of the prompt, estimated from its bytes.
        prompt: Tokens,
        /// Of these, tokens believed to be cached where it goes.
        matched: Tokens,
        /// Predicted time to first token there.
        predicted: Seconds,
    },
    /// The request was sent to an endpoint, which will hold its prompt.
    Route {
        /// Where.
        endpoint: EndpointId,
        /// Size of the prompt in canonical bytes.
        bytes: u32,
        /// Whether the answer streams: only then its first token can be seen.
        stream: bool,
        /// The prompt's boundaries; none when it was placed by load alone.
        boundaries: Vec<Boundary>,
        /// How long before this was told it was sent, in ms. Not 0 where Envoy chose: only the answer says whom.
        late_ms: u32,
    },
    /// More of a prompt that was routed before all of it was read.
    Extend {
        /// Size of the whole prompt in canonical bytes.
        bytes: u32,
        /// All its boundaries.
        boundaries: Vec<Boundary>,
    },
    /// Its first generated token came: its prefill is over.
    FirstToken {
        /// Time since the request was sent.
        ttft: Seconds,
    },
    /// Its answer is over.
    Done {
        /// Prompt tokens, as the engine counted them.
        prompt: Option<Tokens>,
        /// Of these, tokens found in the cache.
        cached: Option<Tokens>,
        /// Tokens generated.
        output: Option<Tokens>,
    },
    /// It never reached the endpoint that it was routed to, or was not computed there.
    Void {
        /// Whether that speaks against the endpoint: it refused, broke off, or answered that it cannot.
        failed: bool,
    },
    /// An endpoint holds this prompt (a refill, an event): warmth without load. Folding it twice is as folding it once.
    Warm {
        /// Who.
        endpoint: EndpointId,
        /// What of a prompt.
        extent: Extent,
        /// Its boundaries.
        boundaries: Vec<Boundary>,
    },
    /// A new endpoint table is in shared data.
    Table {
        /// Its version.
        version: u64,
    },
    /// A VM lost track and asks for all that is known.
    RefillWanted,
    /// An endpoint keeps a stored answer, and is the only one that can go on from it.
    Stored {
        /// Which answer.
        response: ResponseKey,
        /// Who.
        endpoint: EndpointId,
    },
}

/// Why a slot could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotError;

impl From<Truncated> for SlotError {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// The payload of a slot that holds `records`.
#[must_use]
pub fn encode_slot(records: &[Record]) -> Vec<u8> {
    let mut slot = Vec::new();
    add_records(&mut slot, records);
    slot
}

/// Adds records to a slot's payload, which may be empty.
pub fn add_records(slot: &mut Vec<u8>, records: &[Record]) {
    let mut w = Writer::onto(std::mem::take(slot));
    if w.is_empty() {
        w.u8(FORMAT);
    }
    for record in records {
        w.bytes(&record.encode());
    }
    *slot = w.finish();
}

/// Appends the records of the slot `from` to those of `to`, without reading them. A slot of another format, which no
/// reader of `to` would understand, is left out.
pub fn append_slot(to: &mut Vec<u8>, from: &[u8]) {
    match from.split_first() {
        Some((&FORMAT, records)) if !to.is_empty() => to.extend_from_slice(records),
        Some((&FORMAT, _)) => to.extend_from_slice(from),
        _ => {}
    }
}

/// The records of a slot's payload. Kinds that this version does not know are left out.
///
/// # Errors
/// [`SlotError`] when the payload is of another format, cut or garbage; nothing of it may be folded then.
pub fn decode_slot(payload: &[u8]) -> Result<Vec<Record>, SlotError> {
    let mut r = Reader::new(payload);
    if r.u8()? != FORMAT {
        return Err(SlotError);
    }
    let mut records = Vec::new();
    while r.remaining() > 0 {
        records.extend(Record::decode(Reader::new(r.bytes()?))?);
    }
    Ok(records)
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        w.u8(self.body.kind());
        w.u64(self.request.origin.0);
        w.u64(self.request.number);
        w.u64(self.at.0);
        match &self.body {
            Body::Decided { reason, steered, prompt, matched, predicted } => {
                w.u8(reason.code());
                w.u8(u8::from(*steered));
                w.varint(prompt.0);
                w.varint(matched.0);
                w.u64(predicted.0.to_bits());
            }
            Body::Route { endpoint, bytes, stream, boundaries, late_ms } => {
                w.u64(endpoint.0);
                w.varint(u64::from(*bytes));
                w.u8(u8::from(*stream));
                write_boundaries(&mut w, boundaries);
                // As with `failed` and `extent` below.
                if *late_ms > 0 {
                    w.varint(u64::from(*late_ms));
                }
            }
            Body::Extend { bytes, boundaries } => {
                w.varint(u64::from(*bytes));
                write_boundaries(&mut w, boundaries);
            }
            Body::FirstToken { ttft } => w.u64(ttft.0.to_bits()),
            Body::Done { prompt, cached, output } => {
                for tokens in [prompt, cached, output] {
                    w.varint(tokens.map_or(0, |t| t.0.saturating_add(1)));
                }
            }
            // Older readers take a longer record as well, and older writers' ends before it.
            Body::Void { failed } if *failed => w.u8(1),
            Body::Void { .. } | Body::RefillWanted => {}
            Body::Warm { endpoint, extent, boundaries } => {
                w.u64(endpoint.0);
                write_boundaries(&mut w, boundaries);
                w.u8(u8::from(extent.continues) | u8::from(extent.gaps) << 1);
            }
            Body::Table { version } => w.u64(*version),
            Body::Stored { response, endpoint } => {
                w.u64(response.0);
                w.u64(endpoint.0);
            }
        }
        w.finish()
    }

    fn decode(mut r: Reader<'_>) -> Result<Option<Self>, Truncated> {
        let kind = r.u8()?;
        let request = RequestId { origin: Origin(r.u64()?), number: r.u64()? };
        let at = Millis(r.u64()?);
        let body = match kind {
            1 => Body::Route {
                endpoint: EndpointId(r.u64()?),
                bytes: r.varint32()?,
                stream: r.u8()? != 0,
                boundaries: read_boundaries(&mut r)?,
                late_ms: if r.remaining() > 0 { r.varint32()? } else { 0 },
            },
            2 => Body::Extend { bytes: r.varint32()?, boundaries: read_boundaries(&mut r)? },
            3 => Body::FirstToken { ttft: Seconds(f64::from_bits(r.u64()?)) },
            4 => {
                let mut tokens = || Ok::<_, Truncated>(r.varint()?.checked_sub(1).map(Tokens));
                Body::Done { prompt: tokens()?, cached: tokens()?, output: tokens()? }
            }
            5 => Body::Void { failed: r.remaining() > 0 && r.u8()? != 0 },
            6 => {
                let (endpoint, boundaries) = (EndpointId(r.u64()?), read_boundaries(&mut r)?);
                // An older writer does not say: its chains may have gaps.
                let bits = if r.remaining() > 0 { r.u8()? } else { 2 };
                Body::Warm { endpoint, extent: Extent { continues: bits & 1 != 0, gaps: bits & 2 != 0 }, boundaries }
            }
            7 => Body::Table { version: r.u64()? },
            8 => Body::RefillWanted,
            9 => Body::Stored { response: ResponseKey(r.u64()?), endpoint: EndpointId(r.u64()?) },
            10 => {
                // A reason of a later version.
                let Some(reason) = Reason::from_code(r.u8()?) else { return Ok(None) };
                Body::Decided {
                    reason,
                    steered: r.u8()? != 0,
                    prompt: Tokens(r.varint()?),
                    matched: Tokens(r.varint()?),
                    predicted: Seconds(f64::from_bits(r.u64()?)),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { request, at, body }))
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Route { .. } => 1,
            Self::Extend { .. } => 2,
            Self::FirstToken { .. } => 3,
            Self::Done { .. } => 4,
            Self::Void { .. } => 5,
            Self::Warm { .. } => 6,
            Self::Table { .. } => 7,
            Self::RefillWanted => 8,
            Self::Stored { .. } => 9,
            Self::Decided { .. } => 10,
        }
    }
}

/// Ends as differences (most fit a byte or two), hashes whole.
fn write_boundaries(w: &mut Writer, boundaries: &[Boundary]) {
    w.varint(boundaries.len() as u64);
    let mut before = 0;
    for b in boundaries {
        w.varint(u64::from(b.end.saturating_sub(before)));
        w.u64(b.hash.0);
        before = b.end;
    }
}

fn read_boundaries(r: &mut Reader<'_>) -> Result<Vec<Boundary>, Truncated> {
    let n = r.count(9)?;
    let mut end = 0_u32;
    let mut boundaries = Vec::with_capacity(n);
    for _ in 0..n {
        end = end.saturating_add(r.varint32()?);
        boundaries.push(Boundary { end, hash: PrefixHash(r.u64()?) });
    }
    Ok(boundaries)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn boundaries() -> impl Strategy<Value = Vec<Boundary>> {
        vec((any::<u64>(), 1..50_000_u32), 0..9).prop_map(|steps| {
            let mut end = 0;
            steps
                .into_iter()
                .map(|(hash, step)| {
                    end += step;
                    Boundary { hash: PrefixHash(hash), end }
                })
                .collect()
        })
    }

    fn body() -> impl Strategy<Value = Body> {
        let tokens = || option::of((0..u64::MAX - 1).prop_map(Tokens));
        prop_oneof![
            (any::<u64>(), any::<u32>(), any::<bool>(), boundaries(), any::<u32>()).prop_map(
                |(e, bytes, stream, boundaries, late_ms)| {
                    Body::Route { endpoint: EndpointId(e), bytes, stream, boundaries, late_ms }
                }
            ),
            (any::<u32>(), boundaries()).prop_map(|(bytes, boundaries)| Body::Extend { bytes, boundaries }),
            (0.0..100.0).prop_map(|s| Body::FirstToken { ttft: Seconds(s) }),
            (0..Reason::ALL.len(), any::<bool>(), any::<u64>(), any::<u64>(), 0.0..100.0).prop_map(
                |(reason, steered, prompt, matched, predicted)| Body::Decided {
                    reason: Reason::ALL[reason],
                    steered,
                    prompt: Tokens(prompt),
                    matched: Tokens(matched),
                    predicted: Seconds(predicted),
                }
            ),
            (tokens(), tokens(), tokens()).prop_map(|(prompt, cached, output)| Body::Done { prompt, cached, output }),
            any::<bool>().prop_map(|failed| Body::Void { failed }),
            (any::<u64>(), any::<bool>(), any::<bool>(), boundaries()).prop_map(|(e, continues, gaps, boundaries)| {
                Body::Warm { endpoint: EndpointId(e), extent: Extent { continues, gaps }, boundaries }
            }),
            any::<u64>().prop_map(|version| Body::Table { version }),
            Just(Body::RefillWanted),
            (any::<u64>(), any::<u64>())
                .prop_map(|(r, e)| Body::Stored { response: ResponseKey(r), endpoint: EndpointId(e) }),
        ]
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        (any::<u64>(), any::<u64>(), any::<u64>(), body()).prop_map(|(origin, number, at, body)| Record {
            request: RequestId { origin: Origin(origin), number },
            at: Millis(at),
            body,
        })
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(records in vec(record(), 0..6)) {
            prop_assert_eq!(decode_slot(&encode_slot(&records)), Ok(records));
        }

        #[test]
        fn slots_appended_hold_the_records_of_both(a in vec(record(), 0..4), b in vec(record(), 0..4)) {
            let mut slot = Vec::new();
            append_slot(&mut slot, &encode_slot(&a));
            append_slot(&mut slot, &encode_slot(&b));
            append_slot(&mut slot, b"garbage");
            prop_assert_eq!(decode_slot(&slot), Ok([a, b].concat()));
        }

        #[test]
        fn a_cut_slot_is_refused_or_a_prefix(records in vec(record(), 1..4), at: prop::sample::Index) {
            let bytes = encode_slot(&records);
            if let Ok(some) = decode_slot(&bytes[..at.index(bytes.len())]) {
                prop_assert!(records.starts_with(&some));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode_slot(&bytes);
            let _ = decode_slot(&[&[FORMAT], bytes.as_slice()].concat());
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_left_out() {
        let known = Record {
            request: RequestId { origin: Origin(1), number: 2 },
            at: Millis(3),
            body: Body::Void { failed: true },
        };
        let mut unknown = known.encode();
        unknown[0] = 200;
        unknown.extend_from_slice(b"more");
        let mut w = Writer::default();
        w.u8(FORMAT);
        w.bytes(&unknown);
        w.bytes(&known.encode());
        assert_eq!(decode_slot(w.as_slice()), Ok(vec![known]));
    }
}
