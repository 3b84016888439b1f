//! Times one decision (read and hash, fold, place) by the clock, and weighs the index: for wasm, where criterion does
//! not run. `make bench` runs it natively and in wasmtime, side by side.

mod workload;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;
use warmpath_core::config::Config;
use warmpath_core::placement::Priority;
use warmpath_core::request::{ApiKind, Checkpoints, Prompt, ResumingReader};
use warmpath_core::router::{Request, Router};
use warmpath_core::units::Millis;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

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
    println!("     body  copy+xxh64  read+hash  ratio  next turn");
    let mut reads = Vec::new();
    for (size, rounds) in SIZES {
        let bodies = bodies(size);
        let body = |i: usize| &bodies[i % bodies.len()];
        // In turns, so that a noisy machine is unfair to neither.
        let (mut copied, mut read, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
        let mut checkpoints = Checkpoints::new(1);
        bodies.iter().for_each(|body| drop(resume(body, &mut checkpoints)));
        let next: Vec<_> = (0..16).map(|session| workload::body(size, session, 2)).collect();
        for _ in 0..8 {
            copied.push(median(rounds, |i| {
                black_box(xxhash_rust::xxh64::xxh64(&body(i).clone(), 0));
            }));
            read.push(median(rounds, |i| {
                black_box(workload::read(body(i)));
            }));
            resumed.push(median(rounds, |i| {
                black_box(resume(&next[i % next.len()], &mut checkpoints));
            }));
        }
        let (copied, read, resumed) = (least(&copied), least(&read), least(&resumed));
        println!(
            "{:>7} B  {copied:>7.1} µs  {read:>6.1} µs  {:>5.2}  {resumed:>6.1} µs",
            bodies[0].len(),
            read / copied
        );
        reads.push(read);
    }
    println!("endpoints      body       fold      place  read, fold, place");
    for endpoints in [10, 100, 1000] {
        let before = Region::new(ALLOCATOR);
        let mut view = workload::view(endpoints);
        let allocated = before.change();
        let bytes = allocated.bytes_allocated.saturating_sub(allocated.bytes_deallocated);
        let (entries, evicted) = (view.index().entries(), view.index().evicted());
        for ((size, rounds), read) in SIZES.into_iter().zip(&reads) {
            let config = Config::default();
            let mut router = Router::new(&config);
            let bodies = bodies(size);
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
            println!("{endpoints:>9}  {:>6} B  {fold:>6.1} µs  {place:>6.1} µs  {sum:>14.1} µs", bodies[0].len());
        }
        println!(
            "{endpoints:>9}: {entries} entries ({evicted} evicted), {} B an entry, {} KB an endpoint",
            bytes / entries.max(1),
            bytes / 1000 / endpoints as usize
        );
    }
}

/// Body sizes in bytes, and how often each is timed.
const SIZES: [(usize, usize); 2] = [(8_000, 2000), (220_000, 200)];

fn bodies(size: usize) -> Vec<Vec<u8>> {
    (0..16).map(|session| workload::body(size, session, 1)).collect()
}

/// Reads a body as the filter does one that comes whole, and that may begin as others did.
fn resume(body: &[u8], checkpoints: &mut Checkpoints) -> Prompt {
    let mut reader = ResumingReader::new(ApiKind::Chat);
    reader.feed(body, true, checkpoints);
    reader.into_reader().finish().unwrap_or_default()
}

fn least(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}
