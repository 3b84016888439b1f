//! Types that carry meaning, so that a prefix hash cannot be passed for an endpoint or a byte count for tokens.

use std::fmt;
use xxhash_rust::xxh64::xxh64;

/// One cache: a pod's ip:port, data-parallel rank and incarnation (pod UID or process start), hashed. A restarted pod
/// is another endpoint, because its cache is empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

impl EndpointId {
    /// The identity of the cache behind `address` (ip:port) and `rank`, since `incarnation` (any text that changes
    /// when the process restarts).
    #[must_use]
    pub fn new(address: &str, rank: Option<u32>, incarnation: &str) -> Self {
        let mut bytes = Vec::with_capacity(address.len() + incarnation.len() + 8);
        bytes.extend_from_slice(address.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&rank.map_or(u32::MAX, |r| r).to_le_bytes());
        bytes.extend_from_slice(incarnation.as_bytes());
        Self(xxh64(&bytes, 0))
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e:{:016x}", self.0)
    }
}

/// The hash of everything in a prompt up to a boundary, the model, adapter and salt mixed in. Equal hashes mean equal
/// prefixes (64 bits: a collision costs a cold prefill, never a wrong answer).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixHash(pub u64);

impl fmt::Debug for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p:{:016x}", self.0)
    }
}

/// One Envoy process's journal: random, new at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// One request, unique among all gateway replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// Which Envoy process.
    pub origin: Origin,
    /// Which request of it: the VM's random half above, its counter below.
    pub number: u64,
}

/// A stored answer of `/v1/responses`: its id, hashed. Only the pod that made it can go on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseKey(pub u64);

impl ResponseKey {
    /// Bytes of an id that count; vLLM's have 37.
    pub const LONGEST: usize = 256;

    /// The key of an id, of which a reader may have kept only the first [`ResponseKey::LONGEST`] bytes.
    #[must_use]
    pub fn of(id: &[u8]) -> Self {
        Self(xxh64(id.get(..Self::LONGEST).unwrap_or(id), 0))
    }
}

/// A number of tokens as the engine counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tokens(pub u64);

impl Tokens {
    /// The difference, zero where it would be negative.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A span of time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

/// A moment: milliseconds since the Unix epoch, by the clock of the host that this runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment of that many nanoseconds since the epoch.
    #[must_use]
    pub fn of_nanos(nanos: u64) -> Self {
        const MILLION: std::num::NonZeroU64 = std::num::NonZeroU64::new(1_000_000).unwrap();
        Self(nanos / MILLION)
    }

    /// How long after `earlier` this is; zero when the clock was stepped back in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0) as f64 * 0.001)
    }
}

/// Mixes two 64-bit values into one that looks random (the finalizer of splitmix64, Steele et al. 2014).
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_another_after_a_restart_and_on_another_rank() {
        let a = EndpointId::new("10.0.0.1:8000", None, "1");
        assert_eq!(a, EndpointId::new("10.0.0.1:8000", None, "1"));
        assert_ne!(a, EndpointId::new("10.0.0.1:8000", None, "2"));
        assert_ne!(a, EndpointId::new("10.0.0.1:8000", Some(0), "1"));
        assert_ne!(EndpointId::new("10.0.0.1:8000", Some(1), "1"), EndpointId::new("10.0.0.1:8000", Some(0), "1"));
    }

    #[test]
    fn a_clock_that_steps_back_gives_zero() {
        assert_eq!(Millis(5).since(Millis(9)), Seconds(0.0));
        assert_eq!(Millis(2500).since(Millis(1000)), Seconds(1.5));
    }

    #[test]
    fn encodings_are_the_same_in_wasm_and_native() {
        // Pinned values: this test runs on both targets, so a difference between them (or a silent change) fails.
        assert_eq!(EndpointId::new("10.0.0.1:8000", Some(3), "x").0, 16_940_216_871_206_975_631);
        assert_eq!(mix(0x0123_4567_89ab_cdef, 42), 14_164_205_852_011_961_040);
    }
}
