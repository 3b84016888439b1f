//! Reads the counters of pods, to tell what a play changed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::request::{Http, get};

/// Counters of one pod, summed over its engines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counters {
    /// `vllm:prefix_cache_queries_total`, tokens.
    pub prefix_cache_queries: f64,
    /// `vllm:prefix_cache_hits_total`, tokens.
    pub prefix_cache_hits: f64,
    /// `vllm:request_success_total`, all reasons.
    #[serde(skip)]
    pub requests: f64,
}

impl Counters {
    /// Reads a `/metrics` page.
    pub fn read(page: &str) -> Self {
        let sum = |name: &str| -> f64 {
            let lines = page.lines().filter_map(|line| line.strip_prefix(name));
            let values = lines.filter(|rest| rest.starts_with(['{', ' ']));
            values.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        Self {
            prefix_cache_queries: sum("vllm:prefix_cache_queries_total"),
            prefix_cache_hits: sum("vllm:prefix_cache_hits_total"),
            requests: sum("vllm:request_success_total"),
        }
    }

    /// What was counted since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            prefix_cache_queries: self.prefix_cache_queries - before.prefix_cache_queries,
            prefix_cache_hits: self.prefix_cache_hits - before.prefix_cache_hits,
            requests: self.requests - before.requests,
        }
    }
}

/// Counters by pod (`host:port`); pods that do not answer are named on stderr and left out.
pub async fn scrape(http: &Http, pods: &[String]) -> BTreeMap<String, Counters> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let uri = format!("http://{pod}/metrics").parse();
        let page = match uri {
            Ok(uri) => get(http, uri).await,
            Err(error) => Err(format!("{pod}: {error}")),
        };
        match page {
            Ok(page) => drop(all.insert(pod.clone(), Counters::read(&page))),
            Err(error) => eprintln!("cannot read metrics: {error}"),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_and_reasons_are_summed() {
        let page = "# HELP vllm:prefix_cache_hits_total x\n\
            vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"a b\"} 100.0\n\
            vllm:prefix_cache_queries_total{engine=\"1\",model_name=\"a b\"} 1e+06\n\
            vllm:prefix_cache_hits_total{engine=\"0\"} 7.0\n\
            vllm:request_success_total{finished_reason=\"length\"} 3.0\n\
            vllm:request_success_total{finished_reason=\"abort\"} 1.0\n";
        let read = Counters::read(page);
        assert_eq!((read.prefix_cache_queries, read.prefix_cache_hits, read.requests), (1_000_100.0, 7.0, 4.0));
    }
}
