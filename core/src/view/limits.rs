//! What bounds a view, and what it starts from.

use crate::units::{Seconds, Tokens};

/// Bounds and priors. All memory of a view is bounded by these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewLimits {
    /// Boundaries in the index, over all endpoints.
    pub max_entries: usize,
    /// Requests in flight that are kept track of.
    pub max_in_flight: usize,
    /// Stored answers whose endpoint is remembered.
    pub max_stored: usize,
    /// A request not over after this long is forgotten: its `done` was lost.
    pub in_flight_expiry: Seconds,
    /// Cache size of an endpoint that does not tell its own.
    pub default_capacity: Tokens,
    /// Prefill rate until the first sample, tokens a second.
    pub prior_prefill_rate: f64,
    /// Canonical bytes a token until the first sample.
    pub prior_bytes_per_token: f64,
    /// Constant part of a time to first token until the first sample: network, tokenizer, one engine step.
    pub prior_base: Seconds,
    /// What each decoding request adds to it until the first sample.
    pub prior_per_decode: Seconds,
}

impl Default for ViewLimits {
    fn default() -> Self {
        Self {
            max_entries: 500_000,
            max_in_flight: 65_536,
            max_stored: 65_536,
            in_flight_expiry: Seconds(600.0),
            default_capacity: Tokens(400_000),
            prior_prefill_rate: 8_000.0,
            prior_bytes_per_token: 4.0,
            prior_base: Seconds(0.02),
            prior_per_decode: Seconds(0.001),
        }
    }
}
