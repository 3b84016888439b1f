use super::*;
use crate::replay::workload::{Arrival, Prompt};

const SHAPE: PodShape =
    PodShape { capacity: 10_000, prefill_rate: 1000.0, step: 0.1, per_decode: 0.0, max_running: 8, step_tokens: 512 };

fn request(ids: &[u32], tail: u32, output: u32) -> Request {
    let segments: Vec<_> = ids.iter().map(|id| Segment { id: *id, tokens: 512 }).collect();
    let tokens = segments.len() as u32 * 512 + tail;
    Request { arrival: Arrival::At(0.0), prompt: Prompt { segments, tokens, ..Prompt::default() }, output }
}

/// Sends requests at the given times; returns (moment of the first token, of the end, cached tokens) of each.
fn play(pod: &mut Pod, requests: &[Request], at: &[f64]) -> Vec<(f64, f64, u32)> {
    let mut seen = vec![(0.0, 0.0, 0); requests.len()];
    let (mut sent, mut told) = (0, Vec::new());
    loop {
        let step = pod.next().unwrap_or(f64::INFINITY);
        match at.get(sent) {
            Some(t) if *t < step => {
                pod.submit(requests, sent, *t);
                sent += 1;
            }
            _ if step.is_infinite() => return seen,
            _ => pod.advance(requests, step, &mut told),
        }
        for t in told.drain(..) {
            match t {
                Told::FirstToken { number } => seen[number].0 = step,
                Told::Done { number, cached } => (seen[number].1, seen[number].2) = (step, cached),
            }
        }
        assert!(pod.cache.resident() + pod.private <= SHAPE.capacity);
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn a_cold_prompt_takes_its_tokens_and_a_warm_one_a_step() {
    let mut pod = Pod::new(SHAPE);
    let seen = play(&mut pod, &[request(&[1, 2], 10, 5), request(&[1, 2], 10, 1)], &[0.0, 10.0]);
    // 1,034 tokens a second apart, then a step for each of five tokens.
    assert!(near(seen[0].0, 1.134) && near(seen[0].1, 1.534), "{seen:?}");
    assert!(near(seen[1].0, 10.11) && seen[1].2 == 1024, "{seen:?}");
    assert_eq!((pod.private, pod.cache.resident(), pod.computed), (0, 1024, 1044));
}

#[test]
fn decoding_slows_prefill_and_an_arrival_ends_a_long_run_of_steps() {
    let mut pod = Pod::new(SHAPE);
    let seen = play(&mut pod, &[request(&[1], 1, 50), request(&[2], 1, 1)], &[0.0, 1.05]);
    // The first decodes until a step ends after 1.05: 0.613 + 5 x 0.1; then 511 + 2 tokens beside its decoding.
    assert!(near(seen[1].0, 1.113 + 0.511 + 0.1 + 0.002 + 0.1), "{seen:?}");
}

#[test]
fn a_prompt_that_does_not_fit_waits_and_one_that_outgrows_memory_goes_back() {
    let mut pod = Pod::new(SHAPE);
    let big = |id| request(&[id, id + 1, id + 2, id + 3, id + 4, id + 5, id + 6, id + 7], 100, 3000);
    let seen = play(&mut pod, &[big(10), big(20), big(30)], &[0.0, 0.0, 0.0]);
    assert!(seen.iter().all(|s| s.1 > 0.0), "{seen:?}");
    assert!(pod.preempted > 0);
    assert_eq!(pod.queue(), (0, 0));
    assert_eq!(pod.kv_usage(), 0.0);
}

#[test]
fn a_restart_begins_all_anew() {
    let mut pod = Pod::new(SHAPE);
    let requests = [request(&[1, 2], 10, 5), request(&[1, 2], 10, 1)];
    play(&mut pod, &requests[..1], &[0.0]);
    pod.submit(&requests, 1, 10.0);
    pod.restart(&requests, 10.05);
    assert_eq!((pod.cache.hit(&requests[1].prompt.segments), pod.queue()), (0, (1, 0)));
    let mut told = Vec::new();
    while let Some(end) = pod.next() {
        pod.advance(&requests, end, &mut told);
    }
    assert_eq!(told.last(), Some(&Told::Done { number: 1, cached: 1024 }), "it was admitted before");
    assert_eq!(pod.computed, 1034 + 1034);
}
