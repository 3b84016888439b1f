//! Agents whose pods come and go, lose their caches, become slow.

use super::agents::agents;
use super::{Fate, PodEvent, Workload};

/// The agents' workload; the ninth pod joins late.
pub fn restart(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut workload = agents(rate, seed, requests);
    let duration = requests as f64 / rate;
    let event = |share: f64, pod, fate| PodEvent { at: share * duration, pod, fate };
    workload.name = "restart".to_owned();
    workload.events = vec![
        event(0.30, 1, Fate::LosesCache { told: false }),
        event(0.45, 2, Fate::LosesCache { told: true }),
        event(0.60, workload.endpoints, Fate::Joins),
        event(0.80, 3, Fate::Leaves),
    ];
    workload.endpoints += 1;
    workload
}

/// The agents' workload; one pod is ten times slower than the others after 30 % of the time.
pub fn slow_pod(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut workload = agents(rate, seed, requests);
    workload.name = "slow-pod".to_owned();
    workload.events = vec![PodEvent { at: 0.3 * requests as f64 / rate, pod: 1, fate: Fate::Slows(10.0) }];
    workload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_spread_over_the_time_and_name_pods_that_are_there() {
        let workload = restart(10.0, 1, 1_000);
        let at: Vec<_> = workload.events.iter().map(|e| e.at.round() as u32).collect();
        assert_eq!(at, [30, 45, 60, 80]);
        assert!(workload.events.iter().all(|e| e.pod < workload.endpoints));
    }
}
