//! Folding: equal logs give equal views, and nothing leaks.

use super::*;
use crate::journal::decode_slot;
use crate::prefix::Boundary;
use proptest::prelude::*;

fn table(version: u64, endpoints: &[u64]) -> Table {
    let endpoints = endpoints
        .iter()
        .map(|n| Endpoint {
            id: EndpointId(*n),
            address: format!("10.0.0.{n}:8000"),
            capacity: Tokens(1000),
            ..Endpoint::default()
        })
        .collect();
    Table { version, written_at: Millis(0), endpoints }
}

fn prompt(n: u64) -> Vec<Boundary> {
    (1..5).map(|i| Boundary { hash: PrefixHash(mix(n, i)), end: i as u32 * 400 }).collect()
}

fn record(number: u64, at: u64, body: Body) -> Record {
    Record { request: RequestId { origin: Origin(1), number }, at: Millis(at), body }
}

fn route(endpoint: u64, n: u64) -> Body {
    Body::Route { endpoint: EndpointId(endpoint), bytes: 1600, stream: true, boundaries: prompt(n), late_ms: 0 }
}

fn view() -> View {
    bounded(ViewLimits::default().max_entries)
}

fn bounded(max_entries: usize) -> View {
    let mut v = View::new(ViewLimits { max_entries, ..ViewLimits::default() });
    v.apply_table(&table(1, &[1, 2, 3]), Millis(0));
    v
}

fn slot(v: &View, endpoint: u64) -> Slot {
    v.by_id[&EndpointId(endpoint)]
}

#[test]
fn a_route_makes_warm_and_busy() {
    let mut v = view();
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    let two = slot(&v, 2);
    assert_eq!(v.index().matched(two, &prompt(7)), 1600);
    assert_eq!(v.index().matched(slot(&v, 1), &prompt(7)), 0);
    let load = &v.known(two).unwrap().load;
    assert_eq!(load.in_flight(), 1);
    assert!((load.backlog(8000.0, Seconds(0.0), Millis(10)).0 - 0.05).abs() < 1e-9);
    v.fold(&record(1, 60, Body::FirstToken { ttft: Seconds(0.05) }), Millis(60));
    assert_eq!(v.known(two).unwrap().load.decoding(), 1);
    let done = Body::Done { prompt: Some(Tokens(400)), cached: None, output: None };
    v.fold(&record(1, 90, done), Millis(90));
    assert_eq!((v.known(two).unwrap().load.in_flight(), v.in_flight()), (0, 0));
}

#[test]
fn a_route_elsewhere_moves_the_load() {
    let mut v = view();
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    v.fold(&record(1, 11, Body::Void { failed: false }), Millis(11));
    v.fold(&record(1, 11, route(3, 7)), Millis(11));
    let in_flight = |n| v.known(slot(&v, n)).unwrap().load.in_flight();
    assert_eq!((in_flight(2), in_flight(3), v.in_flight()), (0, 1, 1));
    assert_eq!(v.index().matched(slot(&v, 2), &prompt(7)), 0);
    assert_eq!(v.index().matched(slot(&v, 3), &prompt(7)), 1600);
}

#[test]
fn a_vanished_endpoint_is_forgotten_and_its_requests_end_harmlessly() {
    let mut v = view();
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    v.apply_table(&table(2, &[1, 3]), Millis(20));
    v.apply_table(&table(3, &[1, 3, 9]), Millis(30));
    assert_eq!(v.index().matched(slot(&v, 9), &prompt(7)), 0);
    v.fold(&record(1, 40, Body::Done { prompt: None, cached: None, output: None }), Millis(40));
    assert_eq!(v.known(slot(&v, 9)).unwrap().load.in_flight(), 0);
    assert_eq!((v.in_flight(), v.index().entries()), (0, 0));
}

#[test]
fn scraped_load_counts_only_what_the_journal_does_not_know() {
    let mut v = view();
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    let mut t = table(2, &[1, 2, 3]);
    t.endpoints[1].load = crate::table::Load { running: 1, waiting: 4, kv_usage: 0.1 };
    v.apply_table(&t, Millis(20));
    assert_eq!(v.known(slot(&v, 2)).unwrap().foreign, 4);
}

fn kv_pressure(view: &View, slot: Slot, uncached: u64) -> KvPressure {
    view.kv_pressure(view.known(slot).unwrap(), view.index().pinned(slot), Tokens(uncached))
}

#[test]
fn a_full_kv_cache_makes_wait() {
    let mut v = view();
    let two = slot(&v, 2);
    let near = |a: Seconds, b: f64| (a.0 - b).abs() < 0.01;
    // 1,000 tokens of capacity; each prompt holds 400 and is expected to generate 128.
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    let pressure = kv_pressure(&v, two, 50);
    assert!(near(pressure.wait, 0.0) && near(pressure.crowding, 3.0 * 0.006), "{pressure:?}");
    v.fold(&record(2, 10, route(2, 8)), Millis(10));
    let pressure = kv_pressure(&v, two, 50);
    assert!(near(pressure.wait, 3.0 * 0.284) && near(pressure.crowding, 3.0 * 0.25), "{pressure:?}");
    // The same prompt again holds nothing more than its answer.
    v.fold(&record(3, 10, route(2, 8)), Millis(10));
    assert!(near(kv_pressure(&v, two, 50).wait, 3.0 * 0.412));
    for n in 1..4 {
        v.fold(&record(n, 20, Body::Done { prompt: None, cached: None, output: None }), Millis(20));
    }
    assert_eq!(kv_pressure(&v, two, 50), KvPressure::default());
}

#[test]
fn a_lost_done_expires() {
    let mut v = view();
    v.fold(&record(1, 10, route(2, 7)), Millis(10));
    v.fold(&record(2, 700_000, route(2, 8)), Millis(700_000));
    assert_eq!((v.in_flight(), v.known(slot(&v, 2)).unwrap().load.in_flight()), (1, 1));
}

#[test]
fn prefill_rate_and_bytes_per_token_are_learned() {
    let mut v = view();
    for n in 0..20 {
        let at = n * 10_000;
        let boundaries = vec![Boundary { hash: PrefixHash(mix(99, n)), end: 8000 }];
        let body = Body::Route { endpoint: EndpointId(1), bytes: 8000, stream: true, boundaries, late_ms: 0 };
        v.fold(&record(n, at, body), Millis(at));
        let took = Seconds(0.02 + v.tokens(8000).0 as f64 / 1600.0);
        let first = at + (took.0 * 1000.0) as u64;
        v.fold(&record(n, first, Body::FirstToken { ttft: took }), Millis(first));
        let done = Body::Done { prompt: Some(Tokens(1600)), cached: Some(Tokens(0)), output: Some(Tokens(5)) };
        v.fold(&record(n, at + 2000, done), Millis(at + 2000));
    }
    let (bytes_per_token, rate) = v.learned();
    assert!((bytes_per_token - 5.0).abs() < 0.01, "{bytes_per_token}");
    assert!((rate - 1600.0).abs() < 20.0, "{rate}");
}

#[test]
fn what_decoding_adds_is_learned() {
    let mut v = view();
    let mut number = 0;
    let mut warm = |v: &mut View, at: u64, ttft: f64| {
        number += 1;
        v.fold(&record(number, at, route(1, 7)), Millis(at));
        let first = at + (ttft * 1000.0) as u64;
        v.fold(&record(number, first, Body::FirstToken { ttft: Seconds(ttft) }), Millis(first));
    };
    warm(&mut v, 0, 0.2);
    for i in 1..40 {
        // They never end: each finds one more decoding.
        warm(&mut v, i * 1000, 0.05 + 0.004 * i as f64);
    }
    let known = v.known(slot(&v, 1)).unwrap();
    let overhead = v.overhead(known).0;
    assert!((0.15..0.28).contains(&overhead), "{overhead}");
}

proptest! {
    #[test]
    fn equal_logs_give_equal_views_and_a_refill_gives_the_warmth(
        steps in proptest::collection::vec((1..5_u64, 0..12_u64, 0..4_u8), 1..60),
        max_entries in prop_oneof![4..40_usize, Just(500_000)],
    ) {
        let mut log: Vec<Record> = steps.iter().enumerate().map(|(i, (endpoint, n, kind))| {
            let at = i as u64 * 100;
            record(*n, at, match kind {
                0 => Body::FirstToken { ttft: Seconds(0.1) },
                1 => Body::Done { prompt: Some(Tokens(400)), cached: None, output: None },
                _ => route(*endpoint, *n),
            })
        }).collect();
        // What is in flight may exceed a cache; a refill does not bring that.
        log.extend((0..12).map(|n| record(n, 9000, Body::Done { prompt: None, cached: None, output: None })));
        let (mut a, mut b) = (bounded(max_entries), bounded(max_entries));
        // VMs fold at different moments, tables too.
        for (v, late) in [(&mut a, 0), (&mut b, 45)] {
            for (i, r) in log.iter().enumerate() {
                if i % 7 == 3 {
                    let mut table = table(i as u64 + 2, &[1, 2, 3]);
                    table.written_at = Millis(i as u64 * 100);
                    table.endpoints.iter_mut().for_each(|e| e.counters.queries = Tokens(i as u64 * 10_000));
                    v.apply_table(&table, Millis(i as u64 * 100 + late));
                }
                v.fold(r, Millis(r.at.0 + late));
            }
        }
        prop_assert_eq!(a.digest(), b.digest());
        let now = Millis(1 << 40);
        let mut fresh = bounded(max_entries);
        for _ in 0..2 {
            for slot in a.refill(Origin(5), 200) {
                decode_slot(&slot).unwrap().iter().for_each(|r| fresh.fold(r, now));
            }
            prop_assert_eq!(fresh.index().digest(), a.index().digest());
        }
        prop_assert_eq!(fresh.in_flight(), 0);
    }

    #[test]
    fn an_address_is_found_as_by_a_search(
        tables in proptest::collection::vec(proptest::collection::vec((0..6_u64, 0..4_u8, 0..3_u32), 0..8), 1..6),
    ) {
        let mut v = View::new(ViewLimits::default());
        for rows in tables {
            // The same id may come back at another address: nothing but the sidecar's care keeps it from doing so.
            let endpoints = rows.iter().map(|(id, address, rank)| Endpoint {
                id: EndpointId(*id),
                address: address.to_string(),
                rank: rank.checked_sub(1),
                ..Endpoint::default()
            });
            v.apply_table(&Table { version: 1, written_at: Millis(0), endpoints: endpoints.collect() }, Millis(0));
            for address in ["0", "1", "2", "3", "4"] {
                for rank in [None, Some(0), Some(1), Some(2)] {
                    let fits = |k: &Known| k.endpoint.rank.is_none() || k.endpoint.rank == rank;
                    let searched = v.endpoints().find(|(_, k)| k.endpoint.address == address && fits(k));
                    let found = v.by_address(address, rank);
                    prop_assert_eq!(found.map(|(slot, _)| slot), searched.map(|(slot, _)| slot));
                }
            }
        }
    }

    #[test]
    fn any_record_folds_without_panic(records in proptest::collection::vec(crate::journal::any_record(), 0..30)) {
        let mut v = view();
        for r in &records {
            v.fold(r, Millis(u64::MAX));
        }
    }
}

/// Routes, answers with `cached` of 400 tokens; at `at` and 50 ms later.
fn serve(v: &mut View, number: u64, n: u64, at: u64, cached: Option<u64>) {
    v.fold(&record(number, at, route(1, n)), Millis(at));
    let done = Body::Done { prompt: Some(Tokens(400)), cached: cached.map(Tokens), output: None };
    v.fold(&record(number, at + 50, done), Millis(at + 50));
}

#[test]
fn one_answer_shows_that_a_cache_was_lost() {
    let held = |v: &View, n: u64| v.index().matched(slot(v, 1), &prompt(n));
    let mut v = view();
    for n in 0..2 {
        serve(&mut v, n, n, n * 100, Some(0));
    }
    serve(&mut v, 5, 0, 1000, Some(390));
    assert_eq!((held(&v, 0), held(&v, 1), v.forgotten()), (1600, 1600, 0));
    serve(&mut v, 6, 0, 2000, Some(0));
    assert_eq!((held(&v, 0), held(&v, 1)), (1600, 0));
    assert_eq!(v.forgotten(), 4);
}

#[test]
fn a_match_on_an_unfinished_prefill_that_misses_shows_nothing() {
    let mut v = view();
    serve(&mut v, 1, 9, 0, Some(0));
    v.fold(&record(2, 1000, route(1, 3)), Millis(1000));
    serve(&mut v, 3, 3, 1001, Some(0));
    assert_eq!((v.index().matched(slot(&v, 1), &prompt(9)), v.forgotten()), (1600, 0));
}

#[test]
fn what_was_computed_since_it_was_sent_was_not_missed() {
    // Equal prompts wait at a pod that is killed, and go on to the same other one: each is told of when it is answered.
    let mut v = view();
    let mut roomy = table(2, &[1]);
    roomy.endpoints[0].capacity = Tokens(100_000);
    v.apply_table(&roomy, Millis(0));
    serve(&mut v, 0, 8, 0, Some(0));
    serve(&mut v, 1, 9, 100, Some(0));
    let moved =
        |n, late_ms| Body::Route { endpoint: EndpointId(1), bytes: 1600, stream: true, boundaries: prompt(n), late_ms };
    let answered = |v: &mut View, number, n, late_ms| {
        let done = Body::Done { prompt: Some(Tokens(400)), cached: Some(Tokens(0)), output: None };
        for body in [moved(n, late_ms), done] {
            v.fold(&record(number, 2000 + number, body), Millis(2000 + number));
        }
    };
    for number in 2..10 {
        answered(&mut v, number, number / 2, 500);
    }
    assert_eq!((v.index().matched(slot(&v, 1), &prompt(9)), v.forgotten()), (1600, 0));
    // Where it was there before, it is missed, and with it what is older.
    answered(&mut v, 20, 9, 500);
    assert_eq!((v.index().matched(slot(&v, 1), &prompt(8)), v.forgotten()), (0, 4));
}

#[test]
fn two_answers_that_find_nothing_show_that_a_whole_cache_was_lost() {
    let held = |v: &View, n: u64| v.index().matched(slot(v, 1), &prompt(n));
    let small = |v: &mut View| {
        v.apply_table(
            &{
                let mut t = table(2, &[1]);
                t.endpoints[0].capacity = Tokens(100_000);
                t
            },
            Millis(0),
        )
    };
    let mut v = view();
    small(&mut v);
    for n in 0..5 {
        serve(&mut v, n, n, n * 100, Some(0));
    }
    // The oldest first: by its age nothing else is missing.
    serve(&mut v, 10, 0, 1000, Some(0));
    assert_eq!((held(&v, 1), held(&v, 4)), (1600, 1600));
    serve(&mut v, 11, 1, 2000, Some(0));
    assert_eq!([0, 1, 2, 3, 4].map(|n| held(&v, n)), [1600, 1600, 0, 0, 0]);
    // A hit in between shows that the cache is there.
    for (i, n) in [2, 3, 4].into_iter().enumerate() {
        serve(&mut v, 20 + n, n, 3000 + i as u64 * 100, Some(0));
    }
    serve(&mut v, 30, 0, 4000, Some(0));
    serve(&mut v, 31, 4, 5000, Some(400));
    serve(&mut v, 32, 1, 6000, Some(0));
    assert_eq!([2, 3].map(|n| held(&v, n)), [1600, 1600]);
}

#[test]
fn where_cached_tokens_are_not_reported_a_late_first_token_tells() {
    let mut v = view();
    v.apply_table(
        &Table {
            version: 2,
            endpoints: vec![Endpoint { capacity: Tokens(100_000), ..table(2, &[1]).endpoints.remove(0) }],
            ..Table::default()
        },
        Millis(0),
    );
    let long =
        |n: u64| (1..5).map(|i| Boundary { hash: PrefixHash(mix(n, i)), end: i as u32 * 10_000 }).collect::<Vec<_>>();
    let mut serve = |number: u64, n: u64, at: u64, ttft: u64| {
        let body =
            Body::Route { endpoint: EndpointId(1), bytes: 40_000, stream: true, boundaries: long(n), late_ms: 0 };
        v.fold(&record(number, at, body), Millis(at));
        let ttft_s = Seconds(ttft as f64 * 0.001);
        v.fold(&record(number, at + ttft, Body::FirstToken { ttft: ttft_s }), Millis(at + ttft));
        let done = Body::Done { prompt: None, cached: None, output: None };
        v.fold(&record(number, at + ttft + 10, done), Millis(at + ttft + 10));
        v.forgotten()
    };
    // 10,000 tokens at 8,000 a second.
    assert_eq!(serve(1, 1, 0, 1270), 0);
    assert_eq!(serve(2, 2, 5_000, 1270), 0);
    assert_eq!(serve(3, 2, 10_000, 30), 0, "warm, as believed");
    assert_eq!(serve(4, 2, 15_000, 300), 0, "late, but not as late as a cold one");
    assert!(serve(5, 2, 20_000, 1270) > 0);
}

#[test]
fn what_others_hold_in_a_kv_cache_counts() {
    let mut v = View::new(ViewLimits::default());
    let with = |kv_usage: f32, waiting: u32| {
        let mut table = table(u64::from(waiting) + 1, &[1]);
        table.endpoints[0].load = crate::table::Load { running: 2, waiting, kv_usage };
        table
    };
    v.apply_table(&with(0.0, 0), Millis(0));
    let one = slot(&v, 1);
    assert_eq!(kv_pressure(&v, one, 100), KvPressure::default());
    v.apply_table(&with(0.9, 3), Millis(1));
    // 900 of 1,000 tokens, this prompt's 100, and an answer of 128.
    assert!((kv_pressure(&v, one, 100).full - 1.128).abs() < 0.002);
    assert!(kv_pressure(&v, one, 100).wait.0 > 0.0);
    assert_eq!(v.known(one).unwrap().waiting(8000.0, Millis(1)), 3);
    // Our own is in the journal and counts once.
    v.fold(&record(1, 10, route(1, 7)), Millis(10));
    v.apply_table(&with(0.5, 0), Millis(20));
    assert!(kv_pressure(&v, one, 0).full < 0.8, "{:?}", kv_pressure(&v, one, 0));
}

#[test]
fn counters_without_hits_forget_where_answers_say_nothing() {
    let mut v = view();
    let counters = |v: &mut View, version: u64, queries: u64, hits: u64| {
        let mut table = table(version, &[1, 2, 3]);
        let counters = crate::table::PrefixCounters { queries: Tokens(queries), hits: Tokens(hits) };
        table.endpoints.iter_mut().for_each(|e| (e.capacity, e.counters) = (Tokens(1_000_000), counters));
        table.written_at = Millis(version * 1000);
        v.apply_table(&table, Millis(version * 1000));
    };
    let ask = |v: &mut View, number: u64, at: u64| {
        v.fold(&record(number, at, route(2, number % 30)), Millis(at));
        let done = Body::Done { prompt: Some(Tokens(400)), cached: None, output: None };
        v.fold(&record(number, at + 1, done), Millis(at + 1));
    };
    counters(&mut v, 1, 0, 0);
    (0..30).for_each(|n| ask(&mut v, n, 1100 + n * 2));
    counters(&mut v, 2, 12_000, 0);
    // Thirty prompts of 400 tokens come again, and nothing is found.
    (30..60).for_each(|n| ask(&mut v, n, 2100 + n * 2));
    counters(&mut v, 3, 24_000, 0);
    assert_eq!(v.forgotten(), 0);
    counters(&mut v, 4, 24_001, 0);
    // What was used since was computed anew; nothing else was there.
    assert_eq!((v.forgotten(), v.index().entries()), (0, 120));
    (60..75).for_each(|n| ask(&mut v, n, 4100 + n * 2));
    counters(&mut v, 5, 30_000, 0);
    (60..75).for_each(|n| ask(&mut v, n + 30, 5100 + n * 2));
    counters(&mut v, 6, 36_000, 0);
    counters(&mut v, 7, 36_001, 0);
    assert_eq!((v.forgotten(), v.index().entries()), (60, 60), "the half that was not asked for since");
}

#[test]
fn a_refill_tells_where_stored_answers_are() {
    let mut v = view();
    for n in 0..500 {
        let body = Body::Stored { response: ResponseKey(n), endpoint: EndpointId(n % 4 + 1) };
        v.fold(&record(n, 10, body), Millis(10));
    }
    let mut other = view();
    let slots = v.refill(Origin(7), 4000);
    assert!(slots.len() > 3 && slots.iter().all(|s| s.len() < 4200), "{:?}", slots.iter().map(Vec::len));
    for record in slots.iter().flat_map(|slot| decode_slot(slot).unwrap()) {
        other.fold(&record, Millis(20));
    }
    for n in 0..500 {
        let at = |v: &View| v.stored_at(ResponseKey(n)).map(|(_, k)| k.endpoint.id);
        // Endpoint 4 is not in the table.
        assert_eq!(at(&other), at(&v));
        assert_eq!(at(&other), (n % 4 < 3).then_some(EndpointId(n % 4 + 1)));
    }
}
