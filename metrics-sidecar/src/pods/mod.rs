//! One pod: ask it, read its answer, judge its health, know it again after a restart.
//!
//! [`task`] runs the others: [`client`] asks, [`page`] and [`vllm`] read the metrics page, [`models`] the list of
//! models, [`identity`] names the caches, [`adapters`] remembers the LoRA adapters, [`health`] judges, [`certificates`] are
//! for pods behind mutual TLS. Only `client`, `certificates` and `task` do I/O; the rest is pure.

pub mod adapters;
pub mod certificates;
pub mod client;
pub mod health;
pub mod identity;
pub mod models;
pub mod page;
pub mod task;
pub mod vllm;

use crate::pods::health::Outcome;
use std::time::Duration;
use warmpath_core::table::{Load, State};
use warmpath_core::units::{EndpointId, Millis, Tokens};

/// All that is known of a pod after a scrape, good or not. Each report replaces the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What the pod's health is judged to be; draining and sleep come on top.
    pub state: State,
    /// How the last scrape ended.
    pub outcome: Option<Outcome>,
    /// What went wrong at the last scrape.
    pub error: Option<String>,
    /// When a scrape last succeeded.
    pub last_success: Option<Millis>,
    /// How long the last scrape that was answered, or failed, took.
    pub took: Option<Duration>,
    /// Scrapes that were no success, in the order of [`Outcome::FAILURES`], since the pod was found.
    pub failures: [u64; Outcome::FAILURES.len()],
    /// Its caches: one, or one for each data-parallel rank. Empty until the first good scrape.
    pub caches: Vec<Cache>,
    /// Models and adapters of `/v1/models`; none when it could not be read yet.
    pub models: Option<Vec<String>>,
    /// LoRA adapters that are loaded.
    pub adapters: Vec<String>,
}

/// One KV cache of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cache {
    /// Whose warmth it is.
    pub id: EndpointId,
    /// Data-parallel rank, when the pod has several.
    pub rank: Option<u32>,
    /// False while the engine sleeps.
    pub awake: bool,
    /// Tokens in one block; 0 when not known.
    pub block_size: u32,
    /// Size of the cache; 0 when not known.
    pub capacity: Tokens,
    /// Load at the last good scrape.
    pub load: Load,
    /// Tokens looked up in the prefix cache since the engine started.
    pub queries: f64,
    /// Tokens found there.
    pub hits: f64,
}
