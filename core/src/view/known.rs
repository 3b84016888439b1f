//! One endpoint, as the view has it.

use super::counters::CounterCheck;
use super::names::{Group, Name};
use crate::failures::Failures;
use crate::learned::{OwnRate, PrefillMeter};
use crate::load::Load;
use crate::table::Endpoint;
use crate::units::Millis;

/// What is known of one endpoint.
#[derive(Debug)]
pub struct Known {
    /// As the table has it.
    pub endpoint: Endpoint,
    /// What the journal says is in flight.
    pub load: Load,
    /// Requests seen at the last scrape that the journal knows nothing of: other gateways' or direct clients'.
    pub foreign: u32,
    /// Requests that waited there, beyond ours as the journal has them.
    pub(super) foreign_waiting: u32,
    /// KV cache tokens that were held at the last scrape beyond what the journal knows of.
    pub(super) foreign_kv: f64,
    /// 1 / tokens of its KV cache; 0 where that is not known.
    pub(super) share_of_token: f64,
    pub(super) pool: Name,
    pub(super) models: Group,
    pub(super) adapters: Group,
    pub(super) counters: CounterCheck,
    /// Tokens a second that it prefills.
    pub prefill: OwnRate,
    pub(super) meter: PrefillMeter,
    /// Answers in a row that found nothing of what was believed to be there, and when the first of them was sent.
    pub(super) all_missing: (u32, Millis),
    /// What failed there.
    pub failures: Failures,
    /// Requests routed to it, ever.
    pub routed: u64,
}

impl Known {
    /// One that has just joined.
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.clone(),
            load: Load::default(),
            foreign: 0,
            foreign_waiting: 0,
            foreign_kv: 0.0,
            share_of_token: 0.0,
            pool: Name::default(),
            models: Group::default(),
            adapters: Group::default(),
            counters: CounterCheck::default(),
            prefill: OwnRate::new(),
            meter: PrefillMeter::default(),
            all_missing: (0, Millis(0)),
            failures: Failures::default(),
            routed: 0,
        }
    }

    /// Whether new requests may go there.
    #[must_use]
    pub fn is_choosable(&self) -> bool {
        self.endpoint.state.is_choosable()
    }

    /// Whether it belongs to that pool.
    #[must_use]
    pub fn is_in(&self, pool: Name) -> bool {
        self.pool == pool
    }

    /// Requests that wait there: as the last scrape says, and by what the journal says has changed since.
    #[must_use]
    pub fn waiting(&self, prefill_rate: f64, now: Millis) -> u32 {
        self.foreign_waiting.saturating_add(self.load.waiting(prefill_rate, now))
    }
}
