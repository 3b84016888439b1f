//! Rows, and tables of them.

use super::policy::Setting;
use super::sim::Outcomes;
use super::workload::Workload;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// One workload at one rate under one rule: medians over the seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// The rule's name.
    pub policy: String,
    /// Pods.
    pub endpoints: usize,
    /// Worker VMs of each gateway.
    pub workers: usize,
    /// Gateway replicas.
    pub replicas: usize,
    /// Seconds until one hears of another's decisions; none: never.
    pub gossip_s: Option<f64>,
    /// The rate as a share of the highest that least request sustains.
    pub load: f64,
    /// Requests a second, on average.
    pub requests_per_s: f64,
    /// Prompt tokens found in the cache, as a share of all.
    pub hit_ratio: f64,
    /// The same if all pods had one cache of their size together.
    pub pooled_bound: f64,
    /// The same if nothing was ever evicted.
    pub infinite_bound: f64,
    /// Prompt tokens that the rule believed cached, as a share of all, if it has a belief.
    pub believed_ratio: Option<f64>,
    /// Time to first token.
    pub ttft_mean_s: f64,
    /// Its median.
    pub ttft_p50_s: f64,
    /// Its 90th percentile.
    pub ttft_p90_s: f64,
    /// Its 99th percentile.
    pub ttft_p99_s: f64,
    /// Computing time of the busiest pod over the mean.
    pub imbalance: f64,
    /// Requests that lost their KV memory while they ran, as a share of all.
    pub preempted: f64,
}

impl Row {
    /// Of one replay.
    pub fn of(workload: &Workload, policy: &str, setting: &Setting, load: f64, outcomes: &Outcomes) -> Self {
        let all = &outcomes.requests;
        let count = all.len().max(1) as f64;
        let mut ttft: Vec<_> = all.iter().map(|o| o.ttft).collect();
        ttft.sort_by(f64::total_cmp);
        let quantile =
            |q: f64| ttft.get(((q * ttft.len() as f64) as usize).min(ttft.len() - 1)).copied().unwrap_or(0.0);
        let tokens = workload.requests.iter().map(|r| u64::from(r.prompt.tokens)).sum::<u64>().max(1) as f64;
        let believed: Option<u64> = all.iter().map(|o| o.believed).sum();
        let busy = outcomes.busy.iter().sum::<f64>() / outcomes.busy.len().max(1) as f64;
        let span = all.iter().map(|o| o.sent).fold(0.0, f64::max);
        Self {
            workload: workload.name.clone(),
            policy: policy.to_owned(),
            endpoints: setting.pods,
            workers: setting.workers,
            replicas: setting.gateways,
            gossip_s: (setting.gateways > 1 && setting.gossip.is_finite()).then_some(setting.gossip),
            load,
            requests_per_s: count / span.max(1e-9),
            hit_ratio: all.iter().map(|o| u64::from(o.cached)).sum::<u64>() as f64 / tokens,
            pooled_bound: outcomes.pooled as f64 / tokens,
            infinite_bound: outcomes.infinite as f64 / tokens,
            believed_ratio: believed.map(|b| b as f64 / tokens),
            ttft_mean_s: ttft.iter().sum::<f64>() / count,
            ttft_p50_s: quantile(0.5),
            ttft_p90_s: quantile(0.9),
            ttft_p99_s: quantile(0.99),
            imbalance: outcomes.busy.iter().copied().fold(0.0, f64::max) / busy.max(1e-9),
            preempted: outcomes.preempted as f64 / count,
        }
    }

    /// Of several seeds: the median of each figure.
    pub fn median(seeds: &[Self]) -> Self {
        let median = |figure: &dyn Fn(&Self) -> f64| {
            let mut all: Vec<_> = seeds.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        let first = seeds[0].clone();
        Self {
            requests_per_s: median(&|r| r.requests_per_s),
            hit_ratio: median(&|r| r.hit_ratio),
            pooled_bound: median(&|r| r.pooled_bound),
            infinite_bound: median(&|r| r.infinite_bound),
            believed_ratio: first.believed_ratio.map(|_| median(&|r| r.believed_ratio.unwrap_or(0.0))),
            ttft_mean_s: median(&|r| r.ttft_mean_s),
            ttft_p50_s: median(&|r| r.ttft_p50_s),
            ttft_p90_s: median(&|r| r.ttft_p90_s),
            ttft_p99_s: median(&|r| r.ttft_p99_s),
            imbalance: median(&|r| r.imbalance),
            preempted: median(&|r| r.preempted),
            ..first
        }
    }

    /// What must be equal for two rows to be compared.
    fn scene(&self) -> (String, String) {
        let gossip = self.gossip_s.map_or("never".to_owned(), |s| format!("{:.0} ms", s * 1000.0));
        let gateways = match self.replicas {
            1 => "1 gateway".to_owned(),
            n => format!("{n} gateways, gossip {gossip}"),
        };
        (self.workload.clone(), format!("load {:.2} ({:.2} requests/s), {gateways}", self.load, self.requests_per_s))
    }
}

/// The rows that a file holds.
pub fn read(path: &Path) -> Result<Vec<Row>, String> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes the rows as a JSON list.
pub fn write(path: &Path, rows: &[Row]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let text = serde_json::to_string_pretty(rows).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(failed)
}

/// A figure: its name in tables, and whether more of it is better.
type Figure = (&'static str, fn(&Row) -> f64, bool);

const FIGURES: [Figure; 6] = [
    ("hit", |r| r.hit_ratio, true),
    ("mean s", |r| r.ttft_mean_s, false),
    ("p50 s", |r| r.ttft_p50_s, false),
    ("p90 s", |r| r.ttft_p90_s, false),
    ("p99 s", |r| r.ttft_p99_s, false),
    ("imbal.", |r| r.imbalance, false),
];

/// Prints a table for each workload and load; the best of a column has a star.
pub fn print(rows: &[Row]) {
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let (workload, how) = first.scene();
        let here = rest.iter().take_while(|r| {
            (r.workload.as_str(), r.load, r.replicas, r.gossip_s)
                == (first.workload.as_str(), first.load, first.replicas, first.gossip_s)
        });
        let here: Vec<_> = here.collect();
        rest = &rest[here.len()..];
        println!(
            "\n{workload}, {how}; hit ratio bounds: pooled {:.3}, infinite {:.3}",
            first.pooled_bound, first.infinite_bound
        );
        print!("  {:<16}", "");
        FIGURES.iter().for_each(|(name, ..)| print!("{name:>10} "));
        println!();
        for row in &here {
            print!("  {:<16}", row.policy);
            for (_, figure, more) in FIGURES {
                let value = figure(row);
                let best = here.iter().all(|r| if more { figure(r) <= value } else { figure(r) >= value });
                print!("{value:>10.3}{}", if best { '*' } else { ' ' });
            }
            println!();
        }
    }
}
