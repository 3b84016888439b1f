//! Times one decision (read and hash, fold, place) by the clock: for wasm, where criterion does not run.
//! `make bench` runs it natively and in wasmtime, side by side.

mod workload;

use std::hint::black_box;
use std::time::Instant;
use warmpath_core::config::Config;
use warmpath_core::placement::Priority;
use warmpath_core::router::{Request, Router};
use warmpath_core::units::Millis;

/// Median of `rounds` timings of `work`, in µs.
fn median(rounds: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|i| {
            let start = Instant::now();
            work(i);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!(
        "{:>9}  {:>9}  {:>10}  {:>10}  {:>10}  {:>10}  {:>9}",
        "body", "endpoints", "copy+xxh64", "read+hash", "fold", "place", "sum"
    );
    for (size, rounds) in [(8_000, 2000), (220_000, 400)] {
        for endpoints in [10, 100, 1000] {
            let mut view = workload::view(endpoints, 20_000 / endpoints.max(100), 8_000);
            let config = Config::default();
            let mut router = Router::new(&config);
            let bodies: Vec<_> = (0..16).map(|s| workload::body(size, s, 1)).collect();
            let body = |i: usize| &bodies[i % bodies.len()];
            let copied = median(rounds, |i| {
                black_box(xxhash_rust::xxh64::xxh64(&body(i).clone(), 0));
            });
            let read = median(rounds, |i| {
                black_box(workload::read(body(i)));
            });
            let prompts: Vec<_> = bodies.iter().map(|b| workload::read(b)).collect();
            let records: Vec<_> =
                prompts.iter().zip(1..).map(|(p, n)| workload::route(p, n % endpoints + 1, n, 1 << 40)).collect();
            records.iter().for_each(|r| workload::fold(&mut view, r));
            let fold = median(rounds, |i| workload::fold(&mut view, &records[i % records.len()]));
            let place = median(rounds, |i| {
                let request = Request::Prompt(&prompts[i % prompts.len()]);
                black_box(router.decide(&config, &view, request, Priority::default(), Millis(1 << 40)));
            });
            let sum = read + fold + place;
            println!(
                "{:>7} B  {endpoints:>9}  {copied:>7.1} µs  {read:>7.1} µs  {fold:>7.1} µs  {place:>7.1} µs  {sum:>6.1} µs",
                bodies[0].len()
            );
        }
    }
}
