//! Builds the endpoint table from what discovery and the pods' tasks say, and publishes it. Pure but for the channel.

use crate::discovery::DiscoveredEndpoint;
use crate::pods::identity::Identity;
use crate::pods::{Cache, Report};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::watch;
use warmpath_core::table::{Endpoint, PrefixCounters, State, Table};
use warmpath_core::units::{Millis, Tokens};

/// A pod as discovery and its task know it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What discovery says.
    pub found: DiscoveredEndpoint,
    /// What its task said last; nothing before its first scrape has ended.
    pub report: Option<Report>,
}

/// A table and what it was made of. Shared, never changed.
#[derive(Debug)]
pub struct Published {
    /// The table.
    pub table: Table,
    /// Its bytes, encoded once for all streams.
    pub encoded: Bytes,
    /// When it was built, by [`crate::clock::Clock::now`]; the table's own moment is the host's.
    pub built_at: Millis,
    /// The pods behind it, in the order of their addresses.
    pub pods: Vec<Pod>,
}

/// The newest table; nothing before the first.
pub type Tables = watch::Receiver<Option<Arc<Published>>>;

/// Numbers tables and sends them out.
#[derive(Debug)]
pub struct Publisher {
    version: u64,
    out: watch::Sender<Option<Arc<Published>>>,
}

impl Publisher {
    /// Numbers from `started_at` on, so that a restarted sidecar's tables are newer than those before.
    #[must_use]
    pub fn new(started_at: Millis) -> (Self, Tables) {
        let (out, tables) = watch::channel(None);
        (Self { version: started_at.0, out }, tables)
    }

    /// Publishes the table of these pods.
    pub fn publish(&mut self, pods: Vec<Pod>, now: Millis, wall: Millis) {
        let endpoints = pods.iter().flat_map(endpoints).collect();
        let table = Table { version: self.version, written_at: wall, endpoints };
        self.version += 1;
        let encoded = Bytes::from(table.encode());
        self.out.send_replace(Some(Arc::new(Published { table, encoded, built_at: now, pods })));
    }
}

/// The table's rows for one pod: one a cache. A pod whose caches are not known yet has one row that is not choosable.
#[must_use]
pub fn endpoints(pod: &Pod) -> Vec<Endpoint> {
    let found = &pod.found;
    let report = pod.report.as_ref();
    let models = report.and_then(|r| r.models.as_ref()).unwrap_or(&found.models);
    let adapters = report.map_or_else(Vec::new, |r| r.adapters.clone());
    let row = |cache: &Cache, state: State| Endpoint {
        id: cache.id,
        address: found.address.clone(),
        rank: cache.rank,
        pool: found.pool.clone(),
        models: models.clone(),
        state,
        block_size: cache.block_size,
        capacity: cache.capacity,
        load: cache.load,
        adapters: adapters.clone(),
        counters: PrefixCounters { queries: Tokens(cache.queries as u64), hits: Tokens(cache.hits as u64) },
    };
    match report {
        Some(report) if !report.caches.is_empty() => {
            report.caches.iter().map(|cache| row(cache, state(found, report.state, cache.awake))).collect()
        }
        _ => {
            let unseen = Identity::unseen(&found.address, found.uid.as_deref());
            vec![row(&Cache { id: unseen, ..Cache::default() }, state(found, State::Failing, true))]
        }
    }
}

fn state(found: &DiscoveredEndpoint, health: State, awake: bool) -> State {
    match health {
        State::Failing => State::Failing,
        _ if found.draining => State::Draining,
        _ if found.unready || !awake => State::Failing,
        health => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(draining: bool, report: Option<Report>) -> Pod {
        let found = DiscoveredEndpoint {
            address: "1.1.1.1:1".to_owned(),
            pool: "p".to_owned(),
            models: vec!["listed".to_owned()],
            draining,
            ..DiscoveredEndpoint::default()
        };
        Pod { found, report }
    }

    fn report(state: State, awake: &[bool]) -> Report {
        let caches = awake.iter().map(|a| Cache { awake: *a, ..Cache::default() }).collect();
        Report { state, caches, ..Report::default() }
    }

    fn states(pod: &Pod) -> Vec<State> {
        endpoints(pod).iter().map(|e| e.state).collect()
    }

    #[test]
    fn a_pod_never_scraped_is_not_choosable() {
        let rows = endpoints(&pod(false, None));
        assert_eq!(
            (rows.len(), rows[0].state, rows[0].models.as_slice()),
            (1, State::Failing, &["listed".to_owned()][..])
        );
    }

    #[test]
    fn each_rank_has_a_row_and_sleeps_alone() {
        assert_eq!(states(&pod(false, Some(report(State::Ready, &[true, false])))), [State::Ready, State::Failing]);
    }

    #[test]
    fn draining_goes_before_health_unless_the_pod_is_gone() {
        assert_eq!(states(&pod(true, Some(report(State::Late, &[true])))), [State::Draining]);
        assert_eq!(states(&pod(true, Some(report(State::Failing, &[true])))), [State::Failing]);
    }

    #[test]
    fn an_unready_pod_is_not_choosable_however_well_it_answers() {
        let mut unready = pod(false, Some(report(State::Ready, &[true])));
        unready.found.unready = true;
        assert_eq!(states(&unready), [State::Failing]);
        unready.found.draining = true;
        assert_eq!(states(&unready), [State::Draining]);
    }

    #[test]
    fn what_the_pod_says_of_its_models_overrides_the_list() {
        let said = Report { models: Some(vec!["served".to_owned()]), ..report(State::Ready, &[true]) };
        assert_eq!(endpoints(&pod(false, Some(said)))[0].models, ["served"]);
    }

    #[test]
    fn versions_grow_from_the_start_time() {
        let (mut publisher, tables) = Publisher::new(Millis(1000));
        publisher.publish(vec![], Millis(1), Millis(1001));
        publisher.publish(vec![pod(false, None)], Millis(2), Millis(1002));
        let newest = tables.borrow().clone().unwrap();
        assert_eq!((newest.table.version, newest.table.written_at), (1001, Millis(1002)));
        assert_eq!(Table::decode(&newest.encoded).as_ref(), Ok(&newest.table));
    }
}
