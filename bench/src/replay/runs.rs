//! Which replays make which row.

use super::options::Options;
use super::policy::{self, Policy, Setting};
use super::report::Row;
use super::sim::{Outcomes, play};
use super::workload::{Kind, Workload};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Least request sustains a rate at which nine of ten first tokens come within so many seconds.
const SUSTAINED: f64 = 5.0;

/// What one row is made of.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: usize,
    policy: &'static str,
    replicas: usize,
    gossip: f64,
    load: f64,
    rate: f64,
}

/// All rows that were asked for.
pub fn all(options: &Options) -> Result<Vec<Row>, String> {
    let kinds = match &options.trace {
        Some(path) => vec![Kind::Trace(path.clone())],
        None if options.workloads.is_empty() => Kind::all(),
        None => options.workloads.clone(),
    };
    let policies = if options.policies.is_empty() { policy::names().collect() } else { options.policies.clone() };
    let full = parallel(&kinds, |kind| match options.rate {
        Some(rate) => Ok(rate),
        None => highest(options, kind),
    })?;
    let mut cases = Vec::new();
    for (kind, full) in full.iter().enumerate() {
        let loads = if options.rate.is_some() { &[1.0][..] } else { &options.loads };
        for load in loads {
            for replicas in &options.replicas {
                // A single gateway has nobody to hear from.
                for gossip in options.gossip_ms.iter().take(if *replicas == 1 { 1 } else { usize::MAX }) {
                    for policy in &policies {
                        let (load, rate) = (*load, full * load);
                        cases.push(Case { kind, policy, replicas: *replicas, gossip: gossip * 0.001, load, rate });
                    }
                }
            }
        }
    }
    parallel(&cases, |case| {
        let kind = &kinds[case.kind];
        let seeds = (1..=options.seeds).map(|seed| one(options, kind, case, seed)).collect::<Result<Vec<_>, _>>()?;
        Ok(Row::median(&seeds))
    })
}

fn setting(options: &Options, workload: &Workload, replicas: usize, gossip: f64, seed: u64) -> Setting {
    Setting {
        gateways: replicas,
        workers: options.workers,
        gossip,
        pods: workload.endpoints,
        capacity: workload.pod.capacity,
        prefill_rate: workload.pod.prefill_rate,
        seed,
        config: options.config.clone(),
    }
}

fn make(options: &Options, kind: &Kind, rate: f64, seed: u64) -> Result<Workload, String> {
    let mut workload = kind.make(rate, seed, options.requests)?;
    workload.endpoints = options.endpoints.unwrap_or(workload.endpoints);
    workload.pod.capacity = options.capacity.unwrap_or(workload.pod.capacity);
    Ok(workload)
}

fn one(options: &Options, kind: &Kind, case: &Case, seed: u64) -> Result<Row, String> {
    let workload = make(options, kind, case.rate, seed)?;
    let setting = setting(options, &workload, case.replicas, case.gossip, seed);
    let outcomes = run(case.policy, &workload, &setting);
    Ok(Row::of(&workload, case.policy, &setting, case.load, &outcomes))
}

fn run(name: &str, workload: &Workload, setting: &Setting) -> Outcomes {
    let mut policy: Box<dyn Policy> = policy::make(name, setting);
    play(workload, &mut *policy, setting)
}

/// The highest rate that least request sustains.
fn highest(options: &Options, kind: &Kind) -> Result<f64, String> {
    let sustains = |rate: f64| -> Result<bool, String> {
        let workload = make(options, kind, rate, 1)?;
        let setting = setting(options, &workload, 1, 0.0, 1);
        let outcomes = run("least-request", &workload, &setting);
        Ok(Row::of(&workload, "least-request", &setting, 1.0, &outcomes).ttft_p90_s <= SUSTAINED)
    };
    let (mut low, mut high) = (0.0, kind.base_rate());
    while sustains(high)? {
        (low, high) = (high, high * 2.0);
        if high > 1e6 {
            return Err(format!("least request sustains any rate of {}", kind.name()));
        }
    }
    if low == 0.0 {
        low = high * 0.5;
        while !sustains(low)? {
            (high, low) = (low, low * 0.5);
            if low < 1e-6 {
                return Err(format!("least request sustains no rate of {}", kind.name()));
            }
        }
    }
    for _ in 0..6 {
        let middle = 0.5 * (low + high);
        if sustains(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

/// Does each job on one of as many threads as there are processors; the results are in the order of the jobs.
fn parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> Result<R, String> + Sync) -> Result<Vec<R>, String> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    let result = work(job);
                    done.lock().expect("no thread panicked").push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panicked");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
