//! Keeps one scrape task for each discovered pod, gathers their reports, and publishes tables.
//!
//! A change of state, identity, models or membership goes out at once. New loads wait a little for those of other
//! pods, so that a hundred pods do not make a hundred tables a second. The first table waits until each pod was tried:
//! one that calls every pod failing, sent by a sidecar that has only just started, would undo what the filter knows.

use crate::clock::wall;
use crate::discovery::{Discovered, DiscoveredEndpoint, Snapshot};
use crate::pods::Report;
use crate::pods::task::{PodTask, Tools};
use crate::shutdown::Shutdown;
use crate::table::{Pod, Publisher};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// A table goes out at least this often, so that its age tells whether the sidecar lives.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long the first table waits for pods that were not tried yet.
const FIRST_TABLE: Duration = Duration::from_secs(3);

/// Reports that may wait for the keeper; a full queue holds the scrape tasks back.
const REPORTS: usize = 256;

/// The keeper.
pub struct Keeper {
    tools: Tools,
    publisher: Publisher,
    table_delay: Duration,
    pods: BTreeMap<String, Kept>,
    started: u64,
    reports: mpsc::Sender<(String, u64, Report)>,
    inbox: mpsc::Receiver<(String, u64, Report)>,
    /// When the next table is due; none before the first snapshot.
    due: Option<Instant>,
    is_first: bool,
}

struct Kept {
    pod: Pod,
    /// Tells reports of this task from those of an earlier one at the same address.
    task_number: u64,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// A keeper of no pods yet.
    #[must_use]
    pub fn new(tools: Tools, publisher: Publisher, table_delay: Duration) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS);
        Self {
            tools,
            publisher,
            table_delay,
            pods: BTreeMap::new(),
            started: 0,
            reports,
            inbox,
            due: None,
            is_first: true,
        }
    }

    /// Runs until shutdown or until discovery is gone.
    pub async fn run(mut self, mut discovered: Discovered, shutdown: Shutdown) {
        let mut ended = std::pin::pin!(shutdown.wait());
        loop {
            tokio::select! {
                () = &mut ended => return,
                changed = discovered.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = discovered.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        self.reconcile(&snapshot);
                    }
                }
                Some((address, number, report)) = self.inbox.recv() => self.take(&address, number, report),
                () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => self.publish(),
            }
        }
    }

    fn reconcile(&mut self, snapshot: &Snapshot) {
        let wanted: BTreeMap<&str, &DiscoveredEndpoint> = snapshot.iter().map(|e| (e.address.as_str(), e)).collect();
        self.pods.retain(|address, _| {
            let stays = wanted.contains_key(address.as_str());
            if !stays {
                tracing::info!(pod = %address, "pod gone from discovery");
            }
            stays
        });
        for (address, found) in wanted {
            match self.pods.get_mut(address) {
                Some(kept) if kept.pod.found.uid == found.uid && kept.pod.found.scrape == found.scrape => {
                    kept.pod.found.clone_from(found);
                }
                _ => self.start(found),
            }
        }
        if self.is_first && !self.all_tried() {
            self.due = Some(self.due.unwrap_or_else(|| Instant::now() + FIRST_TABLE));
        } else {
            self.publish();
        }
    }

    fn start(&mut self, found: &DiscoveredEndpoint) {
        self.started += 1;
        let (number, address, reports) = (self.started, found.address.clone(), self.reports.clone());
        tracing::debug!(pod = %address, pool = %found.pool, "pod found");
        let report = async move |report: Report| {
            // An error means that the keeper has ended, and this task with it.
            let _ = reports.send((address.clone(), number, report)).await;
        };
        let task = PodTask::new(self.tools.clone(), &found.address, &found.scrape, found.uid.as_deref(), report);
        let task = tokio::spawn(task.run()).abort_handle();
        let pod = Pod { found: found.clone(), report: None };
        self.pods.insert(found.address.clone(), Kept { pod, task_number: number, task });
    }

    fn take(&mut self, address: &str, number: u64, report: Report) {
        let Some(kept) = self.pods.get_mut(address).filter(|kept| kept.task_number == number) else { return };
        let urgent = kept.pod.report.as_ref().is_none_or(|before| differs(before, &report));
        kept.pod.report = Some(report);
        if self.is_first {
            if self.all_tried() {
                self.publish();
            }
        } else if urgent {
            self.publish();
        } else {
            let soon = Instant::now() + self.table_delay;
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    fn all_tried(&self) -> bool {
        self.pods.values().all(|kept| kept.pod.report.is_some())
    }

    fn publish(&mut self) {
        let pods = self.pods.values().map(|kept| kept.pod.clone()).collect();
        self.publisher.publish(pods, self.tools.clock.now(), wall());
        self.is_first = false;
        self.due = Some(Instant::now() + HEARTBEAT);
    }
}

/// Whether anything but load changed.
fn differs(before: &Report, after: &Report) -> bool {
    let caches = |r: &Report| r.caches.iter().map(|c| (c.id, c.awake, c.block_size, c.capacity)).collect::<Vec<_>>();
    before.state != after.state || before.models != after.models || caches(before) != caches(after)
}
