//! What people and monitors see of the sidecar: its own metrics, what its gateway's requests came to, and the HTTP server
//! for both.
//!
//! | module | job |
//! | --- | --- |
//! | [`metrics`] | own metrics |
//! | [`traffic`] | counts what the journal says of requests |
//! | [`status`] | the status page |
//! | [`events`] | the same, and each request, as it happens |
//! | [`page`] | the live page |
//! | [`host`] | by which names pages are served |
//! | [`explain`] | where a request would go, and why |
//! | [`web`] | the HTTP server; [`wasm`] is the filter that it serves |

pub mod events;
pub mod explain;
pub mod host;
pub mod metrics;
pub mod page;
pub mod report;
pub mod status;
pub mod traffic;
pub mod wasm;
pub mod web;

use crate::discovery::standing::Standing;
use crate::hub::Hub;
use events::Events;
use explain::Guard;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use traffic::Traffic;
use wasm::Wasm;

/// What all pages are made from.
#[derive(Debug)]
pub struct Pages {
    /// State of the sidecar.
    pub hub: Arc<Hub>,
    /// Where endpoints come from.
    pub sources: Arc<[Arc<Standing>]>,
    /// What the requests came to.
    pub traffic: Arc<Traffic>,
    /// What is told to open pages.
    pub events: Arc<Events>,
    /// Who may ask for explanations.
    pub guard: Guard,
    /// By which names they are served.
    pub names: host::Names,
    /// Own metrics.
    pub registry: Registry,
    /// The filter, if it is served.
    pub wasm: Option<Wasm>,
}
