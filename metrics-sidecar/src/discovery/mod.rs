//! Which pods there are. A source publishes whole snapshots, the newest wins: a reader that was slow misses nothing
//! that still matters.

pub mod file;

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A pod that a source knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveredEndpoint {
    /// `ip:port` as Envoy's cluster knows it.
    pub address: String,
    /// `host:port` where `/metrics`, `/health` and `/v1/models` are read.
    pub scrape: String,
    /// The pool it belongs to.
    pub pool: String,
    /// Models it serves as far as the source knows; `/v1/models` overrides it.
    pub models: Vec<String>,
    /// What changes when the pod is replaced under the same address (Kubernetes: the pod's UID).
    pub uid: Option<String>,
    /// Labels of the pod, for display.
    pub labels: BTreeMap<String, String>,
    /// Whether it is terminating or was asked to drain.
    pub draining: bool,
}

/// All pods at one moment, each address once.
pub type Snapshot = Arc<Vec<DiscoveredEndpoint>>;

/// What a source has published so far: nothing before its first good answer.
pub type Discovered = watch::Receiver<Option<Snapshot>>;

/// A source of pods.
#[async_trait]
pub trait Discovery: Send {
    /// Publishes a snapshot at each change, for as long as anyone listens. A source that fails keeps its last good
    /// snapshot standing, tells `on_error`, and goes on trying.
    async fn run(self: Box<Self>, out: watch::Sender<Option<Snapshot>>, on_error: OnError);
}

/// Told of each failure of a source, once a failure (not once a retry).
pub type OnError = Box<dyn Fn(&str) + Send + Sync>;
