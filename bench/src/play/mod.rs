//! Plays a recorded trace of OpenAI chat requests through a gateway, open loop: each request is sent at its recorded
//! time divided by `--speed`, whether or not earlier ones have been answered.

mod options;
mod progress;
mod report;
mod request;
mod scrape;
mod sse;
mod trace;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

pub use self::options::Options;
use self::progress::Progress;
use self::report::{Record, Report};
use self::request::Http;
pub use self::request::{Outcome, Whole, client, send};
use self::trace::Planned;

/// Plays, prints and writes the results. The exit code is 2 where not one request got an answer.
pub async fn run(options: Options) -> Result<ExitCode, Box<dyn Error>> {
    let uri = target(&options.url)?;
    let planned = trace::read(&options.trace, &options)?;
    let http = request::client();
    let before = scrape::scrape(&http, &options.pods).await;
    let start = Instant::now();
    let outcomes = play(&http, &uri, &planned, &options).await;
    let duration = start.elapsed();
    let after = scrape::scrape(&http, &options.pods).await;
    let counted: BTreeMap<_, _> = after
        .into_iter()
        .filter_map(|(pod, counters)| Some((counters.since(*before.get(&pod)?), pod)))
        .map(|(counters, pod)| (pod, counters))
        .collect();
    let report = Report::new(&options.label, &outcomes, duration, counted);
    if !options.quiet {
        println!("{report}");
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &options.records {
        write_records(path, &planned, &outcomes).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let answered = outcomes.iter().any(|outcome| outcome.status != 0);
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Where chats are sent to.
pub fn target(url: &Uri) -> Result<Uri, String> {
    if url.scheme_str() != Some("http") || url.host().is_none() {
        return Err(format!("--url {url}: must be http://HOST[:PORT]"));
    }
    let base = url.to_string();
    let path = format!("{}/v1/chat/completions", base.trim_end_matches('/'));
    path.parse().map_err(|error| format!("--url {url}: {error}"))
}

async fn play(http: &Http, uri: &Uri, planned: &[Planned], options: &Options) -> Vec<Outcome> {
    let progress = Progress::new(planned.len(), options.quiet);
    let start = Instant::now();
    let mut tasks: Vec<JoinHandle<Outcome>> = Vec::with_capacity(planned.len());
    for request in planned {
        sleep_until(start + Duration::from_secs_f64(request.t / options.speed)).await;
        let (http, uri, body) = (http.clone(), uri.clone(), request.body.clone());
        let (progress, timeout) = (Arc::clone(&progress), options.timeout());
        tasks.push(tokio::spawn(async move {
            let outcome = request::send(&http, uri, body, timeout).await;
            progress.add(outcome.failure.is_some());
            outcome
        }));
    }
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(
            task.await
                .unwrap_or_else(|error| Outcome { failure: Some(format!("player: {error}")), ..Outcome::default() }),
        );
    }
    progress.finish();
    outcomes
}

fn write_records(path: &Path, planned: &[Planned], outcomes: &[Outcome]) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for (i, (planned, outcome)) in planned.iter().zip(outcomes).enumerate() {
        serde_json::to_writer(&mut out, &Record::new(i, planned, outcome))?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
