//! How what a VM does grows with the number of endpoints, by the clock: reading a table, taking it over, folding a route,
//! deciding, finding an endpoint by its address. One line of JSON for each size. `make bench-scale` runs it.

mod workload;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;
use warmpath_core::config::Config;
use warmpath_core::placement::Priority;
use warmpath_core::router::{Request, Router};
use warmpath_core::table::{Endpoint, Table};
use warmpath_core::units::Millis;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: u64 = 1 << 40;

/// Median of `rounds` timings, in µs.
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
    let bodies: Vec<_> = (0..16).map(|session| workload::body(8_000, session, 1)).collect();
    let prompts: Vec<_> = bodies.iter().map(|body| workload::read(body)).collect();
    let config = Config::default();
    for endpoints in [10, 100, 1_000, 10_000] {
        let before = Region::new(ALLOCATOR);
        let mut view = workload::view(endpoints);
        let change = before.change();
        let memory = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
        let known: Vec<Endpoint> = view.endpoints().map(|(_, known)| known.endpoint.clone()).collect();
        let last = known.last().map(|endpoint| endpoint.address.clone()).unwrap_or_default();
        let table = Table { version: 2, written_at: Millis(NOW), endpoints: known };
        let bytes = table.encode();
        let decode = median(51, |_| drop(black_box(Table::decode(&bytes))));
        let apply = median(51, |_| view.apply_table(&table, Millis(NOW)));
        let records: Vec<_> =
            prompts.iter().zip(1..).map(|(p, n)| workload::route(p, n % endpoints + 1, n, NOW)).collect();
        records.iter().for_each(|record| workload::fold(&mut view, record));
        let fold = median(501, |i| workload::fold(&mut view, &records[i % records.len()]));
        let mut router = Router::new(&config);
        let decide = median(501, |i| {
            let request = Request::Prompt(&prompts[i % prompts.len()]);
            black_box(router.decide(&config, &view, request, Priority::default(), Millis(NOW)));
        });
        let find = median(501, |_| {
            black_box(view.by_address(black_box(&last), None));
        });
        println!(
            r#"{{"endpoints":{endpoints},"entries":{},"view_bytes":{memory},"table_bytes":{},"decode_us":{decode:.1},"apply_us":{apply:.1},"fold_us":{fold:.1},"decide_us":{decide:.1},"by_address_us":{find:.2}}}"#,
            view.index().entries(),
            bytes.len()
        );
    }
}
