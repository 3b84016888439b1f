//! Which pods there are. A source publishes whole snapshots, the newest wins: a reader that was slow misses nothing
//! that still matters. Several sources are merged into one snapshot.
//!
//! | module | job |
//! | --- | --- |
//! | [`mod@file`] | pods listed in a JSON file |
//! | [`names`] | addresses and host names, as options name them |
//! | [`kubernetes`] | pods that the API server tells of |
//! | [`standing`] | how a source stands: in step, failing, since when |
//! | [`merge`] | one snapshot of all sources |

pub mod file;
pub mod kubernetes;
pub mod merge;
pub mod names;
pub mod standing;

use async_trait::async_trait;
use standing::Standing;
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
    /// The pod's name, for display.
    pub name: Option<String>,
    /// What changes when the pod is replaced under the same address (Kubernetes: the pod's UID).
    pub uid: Option<String>,
    /// Labels of the pod, for display.
    pub labels: BTreeMap<String, String>,
    /// Whether it is terminating or was asked to drain.
    pub draining: bool,
    /// Whether the source says that it gets no requests now (Kubernetes: not Ready). Its row stays, so that the filter
    /// goes on knowing what is warm there.
    pub unready: bool,
}

/// All pods at one moment, each address once.
pub type Snapshot = Arc<Vec<DiscoveredEndpoint>>;

/// The newest snapshot of all sources: nothing before the first good answers.
pub type Discovered = watch::Receiver<Option<Snapshot>>;

/// A source of pods.
#[async_trait]
pub trait Discovery: Send {
    /// What it reads, for people: the option that asked for it.
    fn name(&self) -> String;

    /// Publishes a snapshot at each change, for as long as anyone listens. A source that fails keeps its last good
    /// snapshot standing, says so through the outlet, and goes on trying.
    async fn run(self: Box<Self>, outlet: Outlet);
}

/// What one source knows, as it goes into the merge.
pub type Parts = Vec<Option<Snapshot>>;

/// Where a source says what it found and how it stands.
#[derive(Clone, Debug)]
pub struct Outlet {
    index: usize,
    parts: watch::Sender<Parts>,
    standing: Arc<Standing>,
}

impl Outlet {
    /// The outlet of the source with that number.
    #[must_use]
    pub fn new(index: usize, parts: watch::Sender<Parts>, standing: Arc<Standing>) -> Self {
        Self { index, parts, standing }
    }

    /// Publishes all pods of this source. `remarks` are sentences about what is odd with them (no such port, …).
    pub fn publish(&self, endpoints: Vec<DiscoveredEndpoint>, remarks: Vec<String>) {
        self.standing.found(endpoints.len(), remarks);
        self.parts.send_if_modified(|parts| {
            let Some(part) = parts.get_mut(self.index) else { return false };
            let changed = part.as_deref() != Some(&endpoints);
            if changed {
                *part = Some(Arc::new(endpoints));
            }
            changed
        });
    }

    /// How the source stands.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Returns when nobody listens any more.
    pub async fn closed(&self) {
        self.parts.closed().await;
    }
}
