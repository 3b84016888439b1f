//! One decision, natively: reading and hashing a body, folding a record, placing.

#[path = "../examples/workload.rs"]
mod workload;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use warmpath_core::config::Config;
use warmpath_core::placement::Priority;
use warmpath_core::router::{Request, Router};
use warmpath_core::units::Millis;

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for size in [8_000, 220_000] {
        let body = workload::body(size, 1, 1);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("copy and xxh64", size), &body, |b, body| {
            b.iter(|| xxhash_rust::xxh64::xxh64(&body.clone(), 0));
        });
        group.bench_with_input(BenchmarkId::new("read and hash", size), &body, |b, body| {
            b.iter(|| workload::read(body));
        });
        group.bench_with_input(BenchmarkId::new("serde_json::Value", size), &body, |b, body| {
            b.iter(|| serde_json::from_slice::<serde_json::Value>(body));
        });
    }
}

fn decide(c: &mut Criterion) {
    let config = Config::default();
    for endpoints in [10, 100, 1000] {
        let mut view = workload::view(endpoints);
        let mut router = Router::new(&config);
        for size in [8_000, 220_000] {
            let prompt = workload::read(&workload::body(size, 3, 2));
            let record = workload::route(&prompt, 1, 99, 1 << 40);
            let id = format!("{size} B, {endpoints} endpoints");
            c.bench_function(&format!("fold/{id}"), |b| b.iter(|| workload::fold(&mut view, &record)));
            c.bench_function(&format!("place/{id}"), |b| {
                let request = Request::Prompt(&prompt);
                b.iter(|| black_box(router.decide(&config, &view, request, Priority::default(), Millis(1 << 40))));
            });
        }
    }
}

criterion_group!(benches, read, decide);
criterion_main!(benches);
