//! What warmpath does when pods change, in whole replays.

use super::policy::{self, Setting};
use super::sim::{Outcome, play};
use super::workload::{Arrival, Fate, Kind, Request, Workload};
use warmpath_core::config::Config;

fn replay(workload: &Workload) -> Vec<Outcome> {
    let setting = Setting {
        gateways: 2,
        workers: 2,
        gossip: 0.05,
        pods: workload.endpoints,
        capacity: workload.pod.capacity,
        prefill_rate: workload.pod.prefill_rate,
        seed: 1,
        config: Config::default(),
    };
    play(workload, &mut *policy::make("warmpath", &setting), &setting).requests
}

fn restart(rate: f64) -> Workload {
    Kind::Restart.make(rate, 1, 4000).expect("a workload")
}

fn moment(workload: &Workload, fate: Fate) -> (f64, usize) {
    workload.events.iter().find(|e| e.fate == fate).map(|e| (e.at, e.pod)).expect("it happens")
}

#[test]
fn three_answers_are_enough_to_see_that_a_cache_was_lost() {
    for fate in [Fate::LosesCache { told: false }, Fate::LosesCache { told: true }] {
        let workload = restart(8.0);
        let (at, pod) = moment(&workload, fate);
        let outcomes = replay(&workload);
        let mut answered: Vec<_> = outcomes.iter().filter(|o| o.pod == pod && o.sent > at).map(|o| o.ended).collect();
        answered.sort_by(f64::total_cmp);
        // A gateway hears of another's answer 50 ms later.
        let seen = answered[2] + 0.05;
        let after: Vec<_> = outcomes.iter().filter(|o| o.pod == pod && o.sent > seen && o.sent < at + 60.0).collect();
        let deceived = after.iter().filter(|o| o.believed.unwrap_or(0) as f64 * 0.75 > f64::from(o.cached) + 512.0);
        assert!(after.len() > 20, "{}", after.len());
        assert_eq!(deceived.count(), 0, "{fate:?}");
    }
}

/// Of the conversations that began in a span of time, the share that began at a pod.
fn share_of_new(workload: &Workload, outcomes: &[Outcome], pod: usize, from: f64, to: f64) -> f64 {
    let began = |(request, o): (&Request, &Outcome)| {
        (matches!(request.arrival, Arrival::At(_)) && o.sent > from && o.sent < to).then_some(o.pod)
    };
    let begun: Vec<_> = workload.requests.iter().zip(outcomes).filter_map(began).collect();
    assert!(begun.len() > 20, "{}", begun.len());
    begun.iter().filter(|p| **p == pod).count() as f64 / begun.len() as f64
}

#[test]
fn a_pod_that_joins_gets_its_share_of_new_conversations_within_ten_seconds() {
    let workload = restart(8.0);
    let (at, pod) = moment(&workload, Fate::Joins);
    let outcomes = replay(&workload);
    assert!(outcomes.iter().all(|o| o.pod != pod || o.sent > at));
    assert!(outcomes.iter().any(|o| o.pod == pod && o.sent < at + 10.0), "within 10 s");
    let share = share_of_new(&workload, &outcomes, pod, at, at + 120.0);
    assert!(share > 1.0 / 9.0, "{share}");
}

#[test]
fn nobody_is_sent_to_a_pod_that_left_and_nobody_is_lost() {
    let workload = restart(8.0);
    let (at, pod) = moment(&workload, Fate::Leaves);
    let outcomes = replay(&workload);
    assert!(outcomes.iter().all(|o| o.ended > o.sent && (o.pod != pod || o.sent <= at)));
}

#[test]
fn a_pod_ten_times_slower_gets_next_to_no_new_conversations() {
    let workload = Kind::SlowPod.make(8.0, 1, 4000).expect("a workload");
    let (at, pod) = moment(&workload, Fate::Slows(10.0));
    let share = share_of_new(&workload, &replay(&workload), pod, at + 20.0, f64::INFINITY);
    assert!(share < 0.03, "{share}");
}

#[test]
fn equal_settings_give_equal_outcomes() {
    let workload = Kind::B2b.make(5.0, 1, 500).expect("a workload");
    assert_eq!(replay(&workload), replay(&workload));
}
