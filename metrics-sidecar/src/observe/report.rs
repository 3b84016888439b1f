//! `warmpath status`: the status page for people, at most 100 columns wide but for addresses and errors.

use super::status::{EndpointStatus, PodStatus, Status, ViewStatus};
use super::traffic::{Figures, TrafficStatus};
use crate::cli::observe::StatusArgs;
use crate::pods::client::Client;
use crate::text::{
    self, BAD, Cell, FAINT, FAIR, GOOD, STRONG, columns, grouped, harmless, ms, of_state, share, styled,
};
use bytes::Bytes;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Prints: 0 when some endpoint may be chosen, else 1.
///
/// # Errors
/// Why the sidecar could not be asked, and what to do.
pub async fn run(args: &StatusArgs) -> Result<ExitCode, String> {
    let page = fetch_page(&args.url).await?;
    let status = parse(&args.url, &page)?;
    if args.json {
        // As it came: a newer sidecar may say more than this version knows.
        text::print(&format!("{}\n", String::from_utf8_lossy(&page)), args.color);
    } else {
        text::print(&text(&status), args.color);
    }
    Ok(if has_choice(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the status page of the sidecar at `url` (`http://host:port`).
///
/// # Errors
/// A sentence saying what is wrong and what to do.
pub async fn fetch(url: &str) -> Result<Status, String> {
    parse(url, &fetch_page(url).await?)
}

async fn fetch_page(url: &str) -> Result<Bytes, String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let client = Client::new(Duration::from_secs(2), None, None)?;
    let read = tokio::time::timeout(Duration::from_secs(5), client.get(host, "/status", false)).await;
    let (status, body) = read
        .map_err(|_| format!("{url}: no answer within 5 s"))?
        .map_err(|failure| format!("{url}: {}; is the sidecar running there? (--url)", failure.error))?;
    if status != hyper::StatusCode::OK {
        return Err(format!("{url}/status: {status}, expected a warmpath sidecar"));
    }
    Ok(body)
}

fn parse(url: &str, page: &[u8]) -> Result<Status, String> {
    serde_json::from_slice(page).map_err(|error| format!("{url}/status: {error}, expected a warmpath sidecar"))
}

/// Whether any endpoint may be chosen.
#[must_use]
pub fn has_choice(status: &Status) -> bool {
    status.pods.iter().flat_map(|pod| &pod.endpoints).any(|endpoint| endpoint.choosable)
}

/// The page for people.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = endpoints(status);
    match &status.table {
        Some(table) => {
            let _ = writeln!(out, "\ntable {}, {:.1}s old", table.version, table.age_s);
        }
        None => out.push_str("\nno table yet\n"),
    }
    connections(&mut out, status);
    for view in &status.views {
        out.push('\n');
        out += &of_view(view);
    }
    out
}

fn endpoints(status: &Status) -> String {
    let head = ["POOL", "ENDPOINT", "STATE", "RUNNING", "WAITING", "KV", "HITS", "CAPACITY", "SCRAPED", "NOTE"];
    let rows = status.pods.iter().flat_map(|pod| pod.endpoints.iter().map(move |endpoint| row(pod, endpoint)));
    columns(&head, &[0, 1, 2, 9], rows)
}

fn row(pod: &PodStatus, endpoint: &EndpointStatus) -> [Cell; 10] {
    let waiting = if endpoint.waiting > 0 { FAIR } else { text::PLAIN };
    [
        pod.pool.as_str().into(),
        text::endpoint(&pod.address, endpoint.rank).into(),
        Cell::new(endpoint.state.as_str(), of_state(&endpoint.state)),
        endpoint.running.to_string().into(),
        Cell::new(endpoint.waiting.to_string(), waiting),
        format!("{:.0}%", endpoint.kv_usage * 100.0).into(),
        endpoint.hit_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0}%", ratio * 100.0)).into(),
        grouped(endpoint.capacity_tokens).into(),
        pod.last_success_s.map_or_else(|| "never".to_owned(), |age| format!("{age:.1}s ago")).into(),
        Cell::new(note(pod), BAD),
    ]
}

/// Where endpoints come from, who is connected, and what came of their journals.
fn connections(out: &mut String, status: &Status) {
    for source in &status.sources {
        if let Some(error) = &source.error {
            let since = source.failing_s.unwrap_or_default();
            let failing = styled("FAILING", BAD);
            let _ = writeln!(out, "source {} {failing} for {since:.0}s: {}", harmless(&source.name), harmless(error));
        }
        for remark in &source.remarks {
            let _ = writeln!(out, "source {}: {}", harmless(&source.name), harmless(remark));
        }
    }
    for feed in &status.feeds {
        let (slots, refills) = (grouped(feed.journal_slots), feed.refills);
        let _ = writeln!(out, "feed {} plugin {} slots {slots} refills {refills}", feed.peer, harmless(&feed.plugin));
    }
    if status.feeds.is_empty() {
        let _ = writeln!(out, "{}", styled("no Envoy is connected", FAIR));
    }
    for peer in &status.peers {
        let _ = match &peer.error {
            Some(error) => {
                let not = styled("NOT CONNECTED", BAD);
                writeln!(out, "peer {} {not} for {:.0}s: {}", peer.address, peer.age_s, harmless(error))
            }
            None if peer.connected => writeln!(out, "peer {} slots {}", peer.address, grouped(peer.slots)),
            None => writeln!(out, "peer {} not tried yet", peer.address),
        };
    }
    let journal = &status.journal;
    let lost = journal.lost_slots;
    let lost_style = if lost > 0 { BAD } else { text::PLAIN };
    let bad_style = if journal.bad_slots > 0 { BAD } else { text::PLAIN };
    let _ = writeln!(
        out,
        "journal slots {} records {} {} {}",
        grouped(journal.slots),
        grouped(journal.records),
        styled(&format!("lost {}", grouped(lost)), lost_style),
        styled(&format!("bad {}", grouped(journal.bad_slots)), bad_style),
    );
    let uncounted = status.views.iter().map(|view| view.traffic.lost_slots).max().unwrap_or(0);
    if uncounted > 0 {
        let _ = writeln!(out, "{}", styled(&format!("not counted below: {} slots", grouped(uncounted)), FAIR));
    }
}

/// How a plugin steers, and what its requests came to.
fn of_view(view: &ViewStatus) -> String {
    let mode = match (view.config_known, view.mode.as_str()) {
        (false, _) => "mode not known".to_owned(),
        (true, "steer") => format!("steer {} %", view.steer_percent),
        (true, mode) => mode.to_owned(),
    };
    let mut out = format!(
        "{}: {mode}, {} in flight, {} boundaries, {:.1} bytes a token, prefill {} tokens/s\n",
        styled(&format!("plugin {}", harmless(&view.plugin)), STRONG),
        grouped(view.in_flight as u64),
        grouped(view.entries as u64),
        view.bytes_per_token,
        grouped(view.prefill_rate.round() as u64),
    );
    out += &figures(&view.traffic);
    let hour = &view.traffic.hour;
    let mut reasons: Vec<(&String, &u64)> = hour.reasons.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !reasons.is_empty() {
        let named = reasons.iter().map(|(name, count)| format!("{name} {}", grouped(**count)));
        let _ = writeln!(out, "decided in the last hour: {}", named.collect::<Vec<_>>().join(", "));
    }
    let prefixes = &view.traffic.prefixes;
    if !prefixes.is_empty() {
        let head = ["PREFIX THAT SAVED MOST", "TOKENS", "HITS", "TOKENS SAVED", "ENDPOINTS"];
        let rows = prefixes.iter().take(SHOWN_PREFIXES).map(|prefix| {
            let numbers = [prefix.tokens, prefix.hits, prefix.tokens_saved].map(grouped);
            let [tokens, hits, saved] = numbers;
            [prefix.prefix.clone(), tokens, hits, saved, prefix.endpoints.to_string()]
        });
        out.push('\n');
        out += &columns(&head, &[0], rows);
    }
    out
}

/// Of the ten that the page has.
const SHOWN_PREFIXES: usize = 5;

fn figures(traffic: &TrafficStatus) -> String {
    let spans = [&traffic.now, &traffic.hour, &traffic.total];
    let row = |name: &str, value: &dyn Fn(&Figures) -> Cell| {
        let [now, hour, total] = spans.map(value);
        [Cell::new(name, FAINT), now, hour, total]
    };
    let count = |value: u64| Cell::from(grouped(value));
    let ratio = |figures: &Figures| match figures.hit_ratio {
        Some(ratio) => Cell::new(share(Some(ratio)), if ratio >= 0.5 { GOOD } else { FAIR }),
        None => "-".into(),
    };
    let rows = [
        row("requests", &|f| count(f.requests)),
        row("steered", &|f| count(f.steered)),
        row("hit ratio, as vLLM says", &ratio),
        row("hit ratio, as predicted", &|f| share(f.predicted_hit_ratio).into()),
        row("TTFT p50", &|f| ms(f.ttft_ms.p50).into()),
        row("TTFT p90", &|f| ms(f.ttft_ms.p90).into()),
        row("TTFT p50, warm", &|f| ms(f.ttft_warm_ms.p50).into()),
        row("TTFT p50, cold", &|f| ms(f.ttft_cold_ms.p50).into()),
        row("prompt tokens saved", &|f| count(f.tokens_saved)),
        row("prefill time saved", &|f| text::seconds(f.prefill_seconds_saved).into()),
    ];
    let since = format!("LAST {}", span(traffic.total.span_s));
    let names = [format!("LAST {}", span(traffic.now.span_s)), format!("LAST {}", span(traffic.hour.span_s)), since];
    let [now, hour, total] = names.each_ref().map(String::as_str);
    columns(&["", now, hour, total], &[0], rows.into_iter())
}

/// A span of time in a word.
fn span(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} S"),
        _ if seconds < 7200.0 => format!("{:.0} MIN", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.0} H", seconds / 3600.0),
        _ => format!("{:.0} D", seconds / 86_400.0),
    }
}

fn note(pod: &PodStatus) -> String {
    match &pod.error {
        Some(error) => harmless(error),
        None if pod.unready => "not Ready, says Kubernetes".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::SourceStatus;
    use super::super::traffic::{PrefixStatus, Quantiles};
    use super::*;

    /// Without colours.
    fn text(status: &Status) -> String {
        anstream::adapter::strip_str(&super::text(status)).to_string()
    }

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

    #[test]
    fn what_requests_came_to_stands_below_and_fits_a_hundred_columns() {
        let mut status = status(true);
        status.pods[0].pool = "default".to_owned();
        status.pods[0].last_success_s = Some(12.3);
        status.pods[0].endpoints[0].capacity_tokens = 1_000_000;
        let mut hour = Figures { span_s: 3600.0, requests: 1_234_567, hit_ratio: Some(0.931), ..Figures::default() };
        hour.reasons =
            [("warm", 1_200_000), ("cold", 34_567), ("shed", 0)].map(|(name, n)| (name.to_owned(), n)).into();
        hour.ttft_ms = Quantiles { p50: Some(72.4), ..Quantiles::default() };
        let prefix =
            PrefixStatus { prefix: "0123456789abcdef".to_owned(), tokens: 900, hits: 7, ..PrefixStatus::default() };
        let traffic = TrafficStatus { hour, prefixes: vec![prefix], ..TrafficStatus::default() };
        let mode = "steer".to_owned();
        let view = ViewStatus {
            plugin: "p".to_owned(),
            config_known: true,
            mode,
            steer_percent: 5.0,
            traffic,
            ..ViewStatus::default()
        };
        status.views.push(view);
        let text = text(&status);
        for wanted in [
            "plugin p: steer 5 %, 0 in flight",
            "LAST 0 S  LAST 60 MIN",
            "requests                        0    1,234,567         0",
            "hit ratio, as vLLM says         -       93.1 %         -",
            "TTFT p50                        -        72 ms         -",
            "decided in the last hour: warm 1,200,000, cold 34,567\n",
            "0123456789abcdef           900     7             0          0",
        ] {
            assert!(text.contains(wanted), "{wanted:?} not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
