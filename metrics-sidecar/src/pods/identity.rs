//! Knows a cache again, and a restarted one as another: what it held is gone.
//!
//! The incarnation is the pod's UID (where discovery knows it) and the process's start time (where the page has it).
//! Both are facts of the pod, so all replicas of the gateway derive the same [`EndpointId`]. Some pods export neither
//! (prometheus' multi-process mode has no start time): there a prefix-cache counter that went backwards tells of a
//! restart, and a count of those is mixed in. That count is this sidecar's own, so replicas that were started at
//! different times may disagree about such a pod, which costs them each other's records about it and nothing else.

use crate::pods::Cache;
use crate::pods::vllm::{Engine, Page};
use std::collections::HashMap;
use warmpath_core::units::EndpointId;

/// Names the caches of one pod.
#[derive(Debug)]
pub struct Identity {
    address: String,
    uid: Option<String>,
    process_start: Option<String>,
    engines: HashMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    queries: f64,
    restarts: u32,
}

impl Identity {
    /// The pod at `address` (ip:port); `uid` changes when it is replaced.
    #[must_use]
    pub fn new(address: &str, uid: Option<&str>) -> Self {
        Self { address: address.to_owned(), uid: uid.map(str::to_owned), process_start: None, engines: HashMap::new() }
    }

    /// The id of the whole pod before its first good scrape.
    #[must_use]
    pub fn unseen(address: &str, uid: Option<&str>) -> EndpointId {
        EndpointId::new(address, None, uid.unwrap_or(""))
    }

    /// The caches that a page tells of. The flag is true when the process is another than at the page before (and at
    /// the first page).
    pub fn caches(&mut self, page: &Page) -> (Vec<Cache>, bool) {
        let first = self.engines.is_empty();
        let mut restarted = first || self.process_start != page.process_start;
        if restarted {
            self.engines.clear();
            self.process_start.clone_from(&page.process_start);
        }
        // Labels that change from page to page must not add up.
        self.engines.retain(|label, _| page.engines.iter().any(|engine| engine.label == *label));
        let several = page.engines.len() > 1;
        // The label counts over all nodes of a deployment, the header over the engines of this server: with vLLM's hybrid
        // load balancing the second node's pages begin at 2, say, and its header at 0.
        let least = page.engines.iter().filter_map(|e| e.label.parse::<u32>().ok()).min().unwrap_or(0);
        let mut caches = Vec::with_capacity(page.engines.len());
        for (n, engine) in (0_u32..).zip(&page.engines) {
            let rank = several.then(|| engine.label.parse().map_or(n, |label: u32| label - least));
            let seen = self.engines.entry(engine.label.clone()).or_default();
            if engine.queries < seen.queries {
                seen.restarts += 1;
                restarted = true;
            }
            seen.queries = engine.queries;
            let incarnation = incarnation(self.uid.as_deref(), self.process_start.as_deref(), seen.restarts);
            caches.push(cache(EndpointId::new(&self.address, rank, &incarnation), rank, engine));
        }
        (caches, restarted)
    }
}

fn incarnation(uid: Option<&str>, process_start: Option<&str>, restarts: u32) -> String {
    let (uid, start) = (uid.unwrap_or(""), process_start.unwrap_or(""));
    if restarts == 0 { format!("{uid}{start}") } else { format!("{uid}{start}#{restarts}") }
}

fn cache(id: EndpointId, rank: Option<u32>, engine: &Engine) -> Cache {
    Cache {
        id,
        rank,
        awake: engine.awake,
        block_size: engine.block_size,
        capacity: engine.capacity,
        load: engine.load,
        queries: engine.queries,
        hits: engine.hits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(start: Option<&str>, queries: &[f64]) -> Page {
        let engine = |(n, q): (usize, &f64)| Engine { label: n.to_string(), queries: *q, ..Engine::default() };
        Page {
            process_start: start.map(str::to_owned),
            engines: queries.iter().enumerate().map(engine).collect(),
            ..Page::default()
        }
    }

    fn ids(identity: &mut Identity, page: &Page) -> (Vec<EndpointId>, bool) {
        let (caches, restarted) = identity.caches(page);
        (caches.into_iter().map(|c| c.id).collect(), restarted)
    }

    #[test]
    fn a_pod_keeps_its_id_while_it_runs() {
        let mut identity = Identity::new("1.1.1.1:1", None);
        let (first, new) = ids(&mut identity, &page(Some("5"), &[10.0]));
        assert!(new);
        assert_eq!(ids(&mut identity, &page(Some("5"), &[20.0])), (first, false));
    }

    #[test]
    fn another_process_start_is_another_cache() {
        let mut identity = Identity::new("1.1.1.1:1", None);
        let (first, _) = ids(&mut identity, &page(Some("5"), &[10.0]));
        let (second, restarted) = ids(&mut identity, &page(Some("6"), &[10.0]));
        assert!(restarted && first != second);
        // Whoever sees only the second process gives it the same name.
        assert_eq!(ids(&mut Identity::new("1.1.1.1:1", None), &page(Some("6"), &[99.0])).0, second);
    }

    #[test]
    fn a_counter_that_goes_back_is_a_restart_of_that_engine() {
        let mut identity = Identity::new("1.1.1.1:1", Some("uid"));
        let (first, _) = ids(&mut identity, &page(None, &[10.0, 10.0]));
        let (second, restarted) = ids(&mut identity, &page(None, &[11.0, 0.0]));
        assert!(restarted);
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
        assert_eq!(ids(&mut identity, &page(None, &[12.0, 0.0])), (second, false));
    }

    #[test]
    fn ranks_are_those_of_the_server_not_of_the_deployment() {
        let mut second_node = page(None, &[0.0, 0.0]);
        for (label, engine) in ["2", "3"].iter().zip(&mut second_node.engines) {
            engine.label = (*label).to_owned();
        }
        let (caches, _) = Identity::new("1.1.1.1:1", None).caches(&second_node);
        assert_eq!(caches.iter().map(|c| c.rank).collect::<Vec<_>>(), [Some(0), Some(1)]);
    }

    #[test]
    fn engines_that_are_not_on_the_page_are_forgotten() {
        let mut identity = Identity::new("1.1.1.1:1", None);
        for n in 0..1000 {
            let engine = Engine { label: n.to_string(), ..Engine::default() };
            identity.caches(&Page { engines: vec![engine], ..Page::default() });
            assert_eq!(identity.engines.len(), 1);
        }
    }

    #[test]
    fn ranks_are_numbered_only_where_there_are_several() {
        let (one, _) = Identity::new("1.1.1.1:1", None).caches(&page(None, &[0.0]));
        assert_eq!(one[0].rank, None);
        let (two, _) = Identity::new("1.1.1.1:1", None).caches(&page(None, &[0.0, 0.0]));
        assert_eq!((two[0].rank, two[1].rank), (Some(0), Some(1)));
    }
}
