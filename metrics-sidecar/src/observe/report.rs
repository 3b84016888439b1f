//! `warmpath status`: the status page as a table for people.

use super::status::{PodStatus, Status};
use crate::pods::client::Client;
use std::fmt::Write as _;
use std::time::Duration;

/// Reads the status page of the sidecar at `url` (`http://host:port`).
///
/// # Errors
/// A sentence saying what is wrong and what to do.
pub async fn fetch(url: &str) -> Result<Status, String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let client = Client::new(Duration::from_secs(2), None, None)?;
    let read = tokio::time::timeout(Duration::from_secs(5), client.get(host, "/status", false)).await;
    let (status, body) = read
        .map_err(|_| format!("{url}: no answer within 5 s"))?
        .map_err(|failure| format!("{url}: {}; is the sidecar running there? (--url)", failure.error))?;
    if status != hyper::StatusCode::OK {
        return Err(format!("{url}/status: {status}, expected a warmpath sidecar"));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{url}/status: {error}, expected a warmpath sidecar"))
}

/// Whether any endpoint may be chosen.
#[must_use]
pub fn has_choice(status: &Status) -> bool {
    status.pods.iter().flat_map(|pod| &pod.endpoints).any(|endpoint| endpoint.choosable)
}

/// The page for people.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut rows = vec![
        ["POOL", "ENDPOINT", "STATE", "RUNNING", "WAITING", "KV", "HITS", "CAPACITY", "SCRAPED", "NOTE"]
            .map(str::to_owned),
    ];
    for pod in &status.pods {
        for endpoint in &pod.endpoints {
            rows.push([
                pod.pool.clone(),
                endpoint.rank.map_or_else(|| pod.address.clone(), |rank| format!("{} rank {rank}", pod.address)),
                endpoint.state.clone(),
                endpoint.running.to_string(),
                endpoint.waiting.to_string(),
                format!("{:.0}%", endpoint.kv_usage * 100.0),
                endpoint.hit_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0}%", ratio * 100.0)),
                endpoint.capacity_tokens.to_string(),
                pod.last_success_s.map_or_else(|| "never".to_owned(), |age| format!("{age:.1}s ago")),
                note(pod),
            ]);
        }
    }
    let mut out = String::new();
    let widths: Vec<usize> =
        (0..10).map(|n| rows.iter().filter_map(|r| Some(r.get(n)?.chars().count())).max().unwrap_or(0)).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    match &status.table {
        Some(table) => {
            let _ = writeln!(out, "\ntable {}, {:.1}s old", table.version, table.age_s);
        }
        None => out.push_str("\nno table yet\n"),
    }
    for source in &status.sources {
        if let Some(error) = &source.error {
            let since = source.failing_s.unwrap_or_default();
            let _ = writeln!(out, "source {} FAILING for {since:.0}s: {error}", source.name);
        }
        for remark in &source.remarks {
            let _ = writeln!(out, "source {}: {remark}", source.name);
        }
    }
    for feed in &status.feeds {
        let _ = writeln!(
            out,
            "feed {} plugin {} slots {} refills {}",
            feed.peer, feed.plugin, feed.journal_slots, feed.refills
        );
    }
    if status.feeds.is_empty() {
        out.push_str("no Envoy is connected\n");
    }
    for peer in &status.peers {
        let _ = match &peer.error {
            Some(error) => writeln!(out, "peer {} NOT CONNECTED for {:.0}s: {error}", peer.address, peer.age_s),
            None if peer.connected => writeln!(out, "peer {} slots {}", peer.address, peer.slots),
            None => writeln!(out, "peer {} not tried yet", peer.address),
        };
    }
    for view in &status.views {
        let _ = writeln!(out, "view {} entries {} in flight {}", view.plugin, view.entries, view.in_flight);
    }
    out
}

fn note(pod: &PodStatus) -> String {
    match &pod.error {
        Some(error) => error.clone(),
        None if pod.unready => "not Ready, says Kubernetes".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{EndpointStatus, SourceStatus};
    use super::*;

    fn status(choosable: bool) -> Status {
        let endpoint =
            EndpointStatus { state: "ready".to_owned(), choosable, rank: Some(1), ..EndpointStatus::default() };
        let pod = PodStatus { address: "1.1.1.1:1".to_owned(), endpoints: vec![endpoint], ..PodStatus::default() };
        Status { pods: vec![pod], ..Status::default() }
    }

    #[test]
    fn the_page_lists_each_endpoint() {
        let text = text(&status(true));
        assert!(text.contains("1.1.1.1:1 rank 1  ready"), "{text}");
        assert!(text.contains("no Envoy is connected"), "{text}");
    }

    #[test]
    fn a_source_that_fails_and_a_pod_that_is_not_ready_are_said() {
        let mut status = status(false);
        status.pods[0].unready = true;
        status.sources = vec![SourceStatus {
            name: "--kubernetes-service a/b:1".to_owned(),
            failing_s: Some(12.3),
            error: Some("refused".to_owned()),
            ..SourceStatus::default()
        }];
        let text = text(&status);
        assert!(text.contains("source --kubernetes-service a/b:1 FAILING for 12s: refused"), "{text}");
        assert!(text.contains("not Ready, says Kubernetes"), "{text}");
    }

    #[test]
    fn a_choice_is_an_endpoint_that_may_be_chosen() {
        assert!(has_choice(&status(true)));
        assert!(!has_choice(&status(false)));
        assert!(!has_choice(&Status::default()));
    }
}
