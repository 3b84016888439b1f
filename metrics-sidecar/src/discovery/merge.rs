//! Runs all sources and makes one snapshot of what they say.
//!
//! The first snapshot waits a little for sources that have not answered: one without their pods would make the filter
//! forget what is warm there, after a restart of the sidecar. It does not wait for ever, because a source that is
//! refused must not hold up the others.

use super::standing::Standing;
use super::{DiscoveredEndpoint, Discovery, Outlet, Parts, Snapshot};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long sources that have answered wait for those that have not.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the sources for as long as anyone listens. `patience` is [`PATIENCE`], but in tests.
pub async fn run(
    sources: Vec<(Box<dyn Discovery>, Arc<Standing>)>,
    out: watch::Sender<Option<Snapshot>>,
    patience: Duration,
) {
    let (parts, mut changes) = watch::channel::<Parts>(vec![None; sources.len()]);
    let mut tasks = JoinSet::new();
    for (index, (source, standing)) in sources.into_iter().enumerate() {
        tasks.spawn(source.run(Outlet::new(index, parts.clone(), standing)));
    }
    drop(parts);
    let forward = async {
        if first(&mut changes, patience).await.is_err() {
            return;
        }
        loop {
            let merged = merge(&changes.borrow_and_update());
            out.send_if_modified(|before| {
                let changed = before.as_deref() != Some(&merged);
                if changed {
                    *before = Some(Arc::new(merged));
                }
                changed
            });
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forward => {}
        () = out.closed() => {}
    }
}

/// Waits until all sources have answered, or some have and the others had time to.
async fn first(changes: &mut watch::Receiver<Parts>, patience: Duration) -> Result<(), watch::error::RecvError> {
    changes.wait_for(|parts| parts.iter().any(Option::is_some)).await?;
    let all = changes.wait_for(|parts| parts.iter().all(Option::is_some));
    match timeout_at(Instant::now() + patience, all).await {
        Ok(result) => result.map(drop),
        Err(_) => Ok(()),
    }
}

/// One list of all parts, by address. Of two entries with one address the earlier source's counts, except that one
/// which takes requests goes before one that does not: an address may be given to a new pod while the old one is
/// still being removed.
#[must_use]
pub fn merge(parts: &Parts) -> Vec<DiscoveredEndpoint> {
    unique(parts.iter().flatten().flat_map(|part| part.iter().cloned()))
}

/// Each address once, in the order of the addresses.
pub(crate) fn unique(endpoints: impl IntoIterator<Item = DiscoveredEndpoint>) -> Vec<DiscoveredEndpoint> {
    let takes = |endpoint: &DiscoveredEndpoint| !endpoint.draining && !endpoint.unready;
    let mut by_address: BTreeMap<String, DiscoveredEndpoint> = BTreeMap::new();
    for endpoint in endpoints {
        match by_address.entry(endpoint.address.clone()) {
            Entry::Vacant(place) => {
                place.insert(endpoint);
            }
            Entry::Occupied(mut place) if takes(&endpoint) && !takes(place.get()) => {
                place.insert(endpoint);
            }
            Entry::Occupied(_) => {}
        }
    }
    by_address.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use async_trait::async_trait;
    use prometheus_client::metrics::counter::Counter;

    fn at(address: &str, pool: &str) -> DiscoveredEndpoint {
        DiscoveredEndpoint { address: address.to_owned(), pool: pool.to_owned(), ..DiscoveredEndpoint::default() }
    }

    /// Says these pods after that time, then nothing.
    struct After(Duration, Vec<DiscoveredEndpoint>);

    #[async_trait]
    impl Discovery for After {
        fn name(&self) -> String {
            "a source".to_owned()
        }

        async fn run(self: Box<Self>, outlet: Outlet) {
            tokio::time::sleep(self.0).await;
            outlet.publish(self.1, Vec::new());
            std::future::pending::<()>().await;
        }
    }

    async fn merged(sources: Vec<After>, patience: Duration) -> watch::Receiver<Option<Snapshot>> {
        let standing = || Arc::new(Standing::new(String::new(), Clock::start(), Counter::default()));
        let sources = sources.into_iter().map(|s| (Box::new(s) as Box<dyn Discovery>, standing())).collect();
        let (out, found) = watch::channel(None);
        tokio::spawn(run(sources, out, patience));
        found
    }

    #[test]
    fn an_address_stands_there_once_and_the_earlier_source_counts() {
        let parts = vec![Some(Arc::new(vec![at("1.1.1.1:1", "a")])), None, Some(Arc::new(vec![at("1.1.1.1:1", "b")]))];
        assert_eq!(merge(&parts), [at("1.1.1.1:1", "a")]);
    }

    #[test]
    fn a_pod_that_takes_requests_goes_before_one_that_is_leaving_its_address() {
        let leaving = DiscoveredEndpoint { draining: true, ..at("1.1.1.1:1", "old") };
        assert_eq!(unique([leaving.clone(), at("1.1.1.1:1", "new")]), [at("1.1.1.1:1", "new")]);
        assert_eq!(unique([at("1.1.1.1:1", "new"), leaving]), [at("1.1.1.1:1", "new")]);
    }

    #[tokio::test]
    async fn the_first_snapshot_waits_for_all_sources() {
        let after = |ms, address| After(Duration::from_millis(ms), vec![at(address, "p")]);
        let mut found = merged(vec![after(1, "1.1.1.1:1"), after(50, "1.1.1.2:1")], PATIENCE * 10).await;
        found.changed().await.unwrap();
        assert_eq!(found.borrow().as_ref().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_source_that_never_answers_does_not_hold_up_the_others() {
        let never = After(Duration::from_secs(3_600), Vec::new());
        let now = After(Duration::ZERO, vec![at("1.1.1.1:1", "p")]);
        let mut found = merged(vec![never, now], Duration::from_millis(20)).await;
        found.changed().await.unwrap();
        assert_eq!(found.borrow().as_ref().unwrap().len(), 1);
    }
}
