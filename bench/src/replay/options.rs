//! What `warmpath-bench replay` can be asked.

use super::policy;
use super::workload::Kind;
use clap::Args;
use std::path::PathBuf;
use warmpath_core::config::Config;

/// Plays workloads against rules of placement, in simulated time.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Workloads; all, if none is named.
    #[arg(long, value_delimiter = ',', value_parser = Kind::parse)]
    pub workloads: Vec<Kind>,
    /// A trace of your own instead: Mooncake or OpenAI-body JSONL, plain or .gz.
    #[arg(long, conflicts_with = "workloads")]
    pub trace: Option<PathBuf>,
    /// Rules of placement; all, if none is named.
    #[arg(long, value_delimiter = ',', value_parser = policy::parse)]
    pub policies: Vec<&'static str>,
    /// warmpath's plugin configuration, instead of the defaults.
    #[arg(long, default_value = "{}", value_parser = config)]
    pub config: Config,
    /// Rates, as shares of the highest that least request sustains (TTFT p90 at most 5 s).
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,0.75,1,1.5")]
    pub loads: Vec<f64>,
    /// A rate in requests a second (for a trace: a speed-up) instead of shares of the highest.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seeds; medians over them are reported.
    #[arg(long, default_value_t = 5)]
    pub seeds: u64,
    /// Requests of a generated workload.
    #[arg(long, default_value_t = 6000)]
    pub requests: usize,
    /// Gateway replicas.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub replicas: Vec<usize>,
    /// Worker VMs of each gateway.
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
    /// Milliseconds until a gateway hears of another's decisions, or `never`.
    #[arg(long, value_delimiter = ',', default_value = "50", value_parser = gossip)]
    pub gossip_ms: Vec<f64>,
    /// Pods, instead of what the workload is made for.
    #[arg(long)]
    pub endpoints: Option<usize>,
    /// KV memory of a pod in tokens, instead of what the workload is made for.
    #[arg(long)]
    pub capacity: Option<u64>,
    /// Where the rows go.
    #[arg(long, default_value = "target/bench/replay.json")]
    pub out: PathBuf,
    /// Add the rows to those that are in the file.
    #[arg(long)]
    pub append: bool,
}

fn config(json: &str) -> Result<Config, String> {
    Config::parse(json.as_bytes()).map_err(|error| error.to_string())
}

fn gossip(text: &str) -> Result<f64, String> {
    match text {
        "never" => Ok(f64::INFINITY),
        ms => ms.parse().map_err(|_| format!("`{ms}`: expected milliseconds or `never`")),
    }
}
