use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::sim::tokens::Token;

const BLOCK: usize = 4;

fn request(id: u64, first: Token, prompt: usize, output: usize) -> (Request, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let tokens: Vec<Token> = (first..first + prompt as Token).collect();
    let request = Request {
        id,
        chain: Chain::new(BLOCK, None, None, &tokens),
        prompt_len: prompt,
        output_len: output,
        words: Words::new(id),
        lora: None,
        arrived: 0.0,
        events,
        progress: Progress::default(),
    };
    (request, receiver)
}

fn run(scheduler: &mut Scheduler) -> usize {
    let mut steps = 0;
    while let Some(step) = scheduler.plan(steps as f64) {
        steps += 1;
        scheduler.complete(&step, steps as f64);
    }
    steps
}

fn drain(receiver: &mut UnboundedReceiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[test]
fn a_repeated_prompt_is_cached_but_for_its_last_block() {
    let mut scheduler = Scheduler::new(100, BLOCK, 8);
    for (id, cached) in [(1, 0), (2, 16)] {
        let (request, mut events) = request(id, 0, 20, 2);
        scheduler.submit(request);
        assert_eq!(run(&mut scheduler), 2);
        let expected = [
            Event::Started { cached },
            Event::Tokens { from: 0, count: 1 },
            Event::Tokens { from: 1, count: 1 },
            Event::Done,
        ];
        assert_eq!(drain(&mut events), expected);
    }
    let stats = &scheduler.stats;
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (40, 16));
    assert_eq!((stats.prompt_tokens, stats.generation_tokens), (40, 4));
    assert_eq!(stats.finished[Finish::Length as usize], 2);
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks_beside_decodes() {
    let mut scheduler = Scheduler::new(4096, BLOCK, 8);
    let (first, _events) = request(1, 0, 10, 5);
    let (long, _long_events) = request(2, 100, STEP_TOKENS * 2, 1);
    scheduler.submit(first);
    let step = scheduler.plan(0.0).expect("work");
    scheduler.complete(&step, 1.0);
    scheduler.submit(long);
    let step = scheduler.plan(1.0).expect("work");
    assert_eq!(step.prefill_tokens, STEP_TOKENS - 1);
    assert!(step.samples);
    assert_eq!(step.work, vec![(1, 1), (2, STEP_TOKENS - 1)]);
}

#[test]
fn a_request_that_does_not_fit_waits_and_then_runs() {
    let mut scheduler = Scheduler::new(10, BLOCK, 8);
    let (first, _a) = request(1, 0, 28, 3);
    let (second, mut events) = request(2, 1000, 28, 3);
    scheduler.submit(first);
    scheduler.submit(second);
    let step = scheduler.plan(0.0).expect("work");
    assert_eq!((scheduler.running().len(), scheduler.waiting().len()), (1, 1));
    scheduler.complete(&step, 1.0);
    run(&mut scheduler);
    assert_eq!(drain(&mut events).last(), Some(&Event::Done));
    assert_eq!(scheduler.usage(), 0.0);
}

#[test]
fn growing_answers_preempt_the_youngest_and_all_still_end() {
    let mut scheduler = Scheduler::new(8, BLOCK, 8);
    let (first, mut a) = request(1, 0, 12, 16);
    let (second, mut b) = request(2, 1000, 12, 16);
    scheduler.submit(first);
    scheduler.submit(second);
    run(&mut scheduler);
    assert!(scheduler.stats.preemptions > 0);
    for events in [drain(&mut a), drain(&mut b)] {
        let tokens = events.iter().filter(|event| matches!(event, Event::Tokens { .. }));
        assert_eq!(tokens.count(), 16);
        assert_eq!(events.last(), Some(&Event::Done));
    }
    assert_eq!(scheduler.usage(), 0.0);
    assert_eq!(scheduler.stats.prefix_queries, 24, "a resumed request is not counted again");
}

#[test]
fn aborting_frees_memory_in_any_state() {
    let mut scheduler = Scheduler::new(10, BLOCK, 1);
    let (first, _a) = request(1, 0, 8, 9);
    let (second, _b) = request(2, 0, 8, 9);
    scheduler.submit(first);
    scheduler.submit(second);
    let step = scheduler.plan(0.0).expect("work");
    scheduler.abort(1, 0.5);
    scheduler.abort(2, 0.5);
    scheduler.abort(2, 0.5);
    scheduler.complete(&step, 1.0);
    assert_eq!(scheduler.stats.finished[Finish::Abort as usize], 2);
    assert_eq!(scheduler.usage(), 0.0);
    assert!(scheduler.plan(1.0).is_none());
}

#[test]
fn without_time_the_cache_counts_the_same() {
    let mut timed = Scheduler::new(100, BLOCK, 8);
    let mut instant = Scheduler::new(100, BLOCK, 8);
    for (id, first, prompt) in [(1, 0, 20), (2, 0, 40), (3, 5, 20), (4, 0, 33)] {
        timed.submit(request(id, first, prompt, 6).0);
        run(&mut timed);
        instant.serve_at_once(request(id, first, prompt, 6).0, 0.0);
    }
    let counted = |scheduler: &Scheduler| {
        let stats = &scheduler.stats;
        (stats.prefix_queries, stats.prefix_hits, stats.generation_tokens, stats.finished)
    };
    assert_eq!(counted(&timed), counted(&instant));
    assert_eq!(instant.usage(), 0.0);
}

#[test]
fn memory_that_is_taken_loses_its_cache_and_requests_wait_until_it_is_back() {
    let mut scheduler = Scheduler::new(20, BLOCK, 8);
    let (first, _first_events) = request(1, 0, 20, 2);
    scheduler.submit(first);
    run(&mut scheduler);
    scheduler.take_memory(true);
    assert_eq!(scheduler.usage(), 1.0);
    let (again, mut events) = request(2, 0, 20, 2);
    scheduler.submit(again);
    assert_eq!((run(&mut scheduler), scheduler.waiting().len()), (0, 1));
    scheduler.take_memory(false);
    run(&mut scheduler);
    assert_eq!(drain(&mut events).first(), Some(&Event::Started { cached: 0 }));
    assert_eq!(scheduler.usage(), 0.0);
}
