//! Envoy as the filter sees it.
//!
//! The SDK's wrappers panic on a status that they do not expect, and a panic ends every stream of the worker. So the
//! host is called through this trait, whose calls return [`HostError`]; tests put a host of their own in its place.

use std::cell::Cell;
use warmpath_core::journal::{Store, StoreError};
use warmpath_core::units::Millis;

#[cfg(target_arch = "wasm32")]
mod envoy;
#[cfg(target_arch = "wasm32")]
pub use envoy::Envoy;
#[cfg(any(test, fuzzing))]
pub mod fake;
mod headers;
#[cfg(any(test, fuzzing))]
mod unlinked;

pub use headers::Headers;

/// The host refused, with its status number (proxy-wasm's `WasmResult`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub u32);

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For people who look for it.
    Info,
    /// Something is off, and handled.
    Warn,
    /// Someone has to do something.
    Critical,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// A level.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric that was defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// A gRPC stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamToken(pub u32);

/// What a host can do. All calls are for the context that is being called.
pub trait Host {
    /// Nanoseconds since the Unix epoch.
    fn nanos(&self) -> u64;
    /// Writes a log line. Each costs a host call even when its level is off.
    fn log(&self, level: Level, message: &str);
    /// A property, by its path.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Sets filter state.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses.
    fn set_property(&self, path: &[&str], value: &[u8]) -> Result<(), HostError>;
    /// All request headers; none when the host refuses.
    fn request_headers(&self) -> Headers;
    /// Sets or (with `None`) removes a request header.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses, as it does once headers have gone on.
    fn set_request_header(&self, name: &str, value: Option<&str>) -> Result<(), HostError>;
    /// All response headers; none when the host refuses.
    fn response_headers(&self) -> Headers;
    /// Adds a response header.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses.
    fn add_response_header(&self, name: &str, value: &str) -> Result<(), HostError>;
    /// Answers the request at once, in the pods' place. Nothing of it goes on then.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses.
    fn reply(&self, status: u32, headers: &[(&str, &str)], body: &[u8]) -> Result<(), HostError>;
    /// Bytes of the request body at hand.
    fn request_body(&self, start: usize, size: usize) -> Option<Vec<u8>>;
    /// Bytes of the response body at hand.
    fn response_body(&self, start: usize, size: usize) -> Option<Vec<u8>>;
    /// The plugin's configuration.
    fn configuration(&self) -> Vec<u8>;
    /// Asks for ticks.
    fn set_tick(&self, every: std::time::Duration);
    /// Defines a metric. Names are never freed: bounded sets only.
    ///
    /// # Errors
    /// [`HostError`] when the host refuses.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError>;
    /// Adds to a counter.
    fn increment(&self, metric: MetricId, by: i64);
    /// Sets a gauge or records into a histogram.
    fn record(&self, metric: MetricId, value: u64);
    /// Opens a gRPC stream on an Envoy cluster.
    ///
    /// # Errors
    /// [`HostError`] when there is no such cluster, or it has no connection to give.
    fn open_stream(&self, cluster: &str, service: &str, method: &str) -> Result<StreamToken, HostError>;
    /// Sends a message.
    ///
    /// # Errors
    /// [`HostError`] when the stream is gone.
    fn send(&self, stream: StreamToken, message: &[u8]) -> Result<(), HostError>;
    /// Ends a stream.
    fn close(&self, stream: StreamToken);
    /// The message that just came.
    fn message(&self, size: usize) -> Option<Vec<u8>>;
    /// See [`Store::get`].
    ///
    /// # Errors
    /// See there.
    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError>;
    /// See [`Store::set`].
    ///
    /// # Errors
    /// See there.
    fn shared_set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError>;

    /// Milliseconds since the Unix epoch.
    fn now(&self) -> Millis {
        Millis::of_nanos(self.nanos())
    }
}

const THOUSAND: std::num::NonZeroU64 = std::num::NonZeroU64::new(1000).unwrap();

/// Whole microseconds.
#[must_use]
pub fn micros(nanos: u64) -> u64 {
    nanos / THOUSAND
}

/// A host's shared data.
pub struct SharedData<'a>(pub &'a dyn Host);

impl Store for SharedData<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        self.0.shared_get(key)
    }
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), StoreError> {
        self.0.shared_set(key, value, cas)
    }
}

/// A random number, different in each VM: std's hash maps draw theirs from the host's `random_get`.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    thread_local!(static DRAWN: Cell<u64> = const { Cell::new(0) });
    let n = DRAWN.with(|d| {
        d.set(d.get().wrapping_add(1));
        d.get()
    });
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u64(n);
    hasher.finish()
}
