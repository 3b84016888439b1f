//! Agents: sessions of many turns, each turn's prompt being all that was said before and a tool's output.
//!
//! The load is the same from the beginning to the end: at the start, sessions are under way, as many and as far as their
//! arrivals before it would have brought them, only with cold caches. An answer's tokens are new text to the next turn.

use super::draw::{Draft, Draw};
use super::{Arrival, PodShape, Request, Workload};

/// Kinds of agent; the k-th is as frequent as 1/k.
const KINDS: u32 = 6;
const SHARED: (u32, u32) = (3_000, 10_000);
const TURNS: (u32, u32) = (12, 60);
/// Turns after the least: geometric with this mean, cut at the most.
const MORE_TURNS: f64 = 13.0;
const ADDED: (u32, u32) = (100, 3_000);
const OUTPUT: (u32, u32) = (50, 500);
/// Medians and spreads of log-normal draws: tokens that a turn adds, seconds between an answer and the next turn.
const ADDED_MEDIAN: f64 = 500.0;
const ADDED_SIGMA: f64 = 1.0;
const THINK_MEDIAN: f64 = 4.0;
const THINK_SIGMA: f64 = 0.8;
/// A session ends within so many seconds on idle pods, nearly always: how long before the start arrivals begin.
const LONGEST: f64 = 900.0;

/// One turn as it is planned: when on idle pods, and what.
struct Turn {
    nominal: f64,
    session: usize,
    think: f64,
    draft: Draft,
    output: u32,
}

/// Sessions that arrive independently, so that requests come at `rate` on average while pods keep up.
pub fn agents(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut draw = Draw::new(seed);
    let pod = PodShape { capacity: 400_000, ..PodShape::default() };
    let mut ids = 0;
    let kinds: Vec<_> =
        (0..KINDS).map(|_| Draft::default().and(draw.range(SHARED.0, SHARED.1 + 1), &mut ids)).collect();
    let sessions = rate / mean_turns();
    let mut turns = Vec::new();
    let (mut arrived, mut count) = (-LONGEST, 0);
    // Turns of sessions that arrive later come later, so it is enough to go on until those before are enough.
    while turns.iter().filter(|t: &&Turn| t.nominal < arrived).nth(requests).is_none() {
        for _ in 0..64 {
            arrived += draw.gap(sessions);
            let kind = kinds[zipf(&mut draw)].clone();
            session(&mut draw, &mut ids, kind, (arrived, count), &pod, &mut turns);
            count += 1;
        }
    }
    turns.sort_by(|a, b| a.nominal.total_cmp(&b.nominal));
    turns.truncate(requests);
    let mut before = vec![None; count];
    let request = |(number, turn): (usize, &Turn)| {
        let arrival = match before[turn.session].replace(number) {
            Some(before) => Arrival::After(before, turn.think),
            None => Arrival::At(turn.nominal),
        };
        Request { arrival, prompt: turn.draft.prompt(number as u64), output: turn.output }
    };
    Workload {
        name: "agents".to_owned(),
        requests: turns.iter().enumerate().map(request).collect(),
        endpoints: 8,
        pod,
        events: Vec::new(),
    }
}

/// Plans the turns of a session that are not before the start.
fn session(draw: &mut Draw, ids: &mut u32, kind: Draft, who: (f64, usize), pod: &PodShape, all: &mut Vec<Turn>) {
    let (mut nominal, session) = who;
    let (mut draft, mut output, mut think) = (kind, 0, 0.0);
    for _ in 0..turns(draw) {
        draft.append(output + draw.tokens(ADDED_MEDIAN, ADDED_SIGMA, ADDED.0, ADDED.1), ids);
        output = draw.range(OUTPUT.0, OUTPUT.1 + 1);
        if nominal >= 0.0 {
            all.push(Turn { nominal, session, think, draft: draft.clone(), output });
        }
        think = draw.log_normal(THINK_MEDIAN, THINK_SIGMA);
        nominal += f64::from(output) * pod.step + think;
    }
}

/// How many turns a session has.
fn turns(draw: &mut Draw) -> u32 {
    // The gap of a Poisson process, rounded down, is geometric.
    let more = draw.gap((1.0 + 1.0 / MORE_TURNS).ln());
    TURNS.0 + (more as u32).min(TURNS.1 - TURNS.0)
}

fn mean_turns() -> f64 {
    let go_on = MORE_TURNS / (MORE_TURNS + 1.0);
    f64::from(TURNS.0) + MORE_TURNS * (1.0 - go_on.powi((TURNS.1 - TURNS.0) as i32))
}

fn zipf(draw: &mut Draw) -> usize {
    let weight = |k: u32| 1.0 / f64::from(k + 1);
    let mut left = draw.share() * (0..KINDS).map(weight).sum::<f64>();
    let kind = (0..KINDS).position(|k| {
        left -= weight(k);
        left < 0.0
    });
    kind.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::measure::{infinite_hit_ratio, shared};
    use super::*;

    #[test]
    fn a_turn_goes_on_from_the_one_before() {
        let workload = agents(10.0, 1, 3_000);
        let mut later = 0;
        for request in &workload.requests {
            if let Arrival::After(before, think) = request.arrival {
                let before = &workload.requests[before];
                let (prompt, added) = (&request.prompt, request.prompt.tokens - before.prompt.tokens - before.output);
                assert_eq!(shared(prompt, &before.prompt), before.prompt.tokens / 16 * 16);
                assert!((ADDED.0..=ADDED.1).contains(&added) && think > 0.0);
                later += 1;
            }
        }
        assert!(later > 2_500, "{later}");
        let ratio = infinite_hit_ratio(&workload);
        assert!((0.8..0.97).contains(&ratio), "{ratio}");
    }

    #[test]
    fn sessions_are_as_long_as_they_should_be() {
        let mut draw = Draw::new(3);
        let drawn: Vec<_> = (0..20_000).map(|_| turns(&mut draw)).collect();
        assert!(drawn.iter().all(|n| (TURNS.0..=TURNS.1).contains(n)));
        let mean = f64::from(drawn.iter().sum::<u32>()) / 20_000.0;
        assert!((mean - mean_turns()).abs() < 0.3, "{mean}");
        let common = (0..20_000).filter(|_| zipf(&mut draw) == 0).count();
        assert!((7_900..8_430).contains(&common), "{common}: 1 / (1 + 1/2 + ... + 1/6) is 0.408");
    }

    /// On idle pods a turn is answered after its tokens' steps.
    #[test]
    fn the_rate_is_held_from_the_start() {
        let workload = agents(8.0, 2, 6_000);
        let mut sent: Vec<f64> = Vec::new();
        for request in &workload.requests {
            sent.push(match request.arrival {
                Arrival::At(at) => at,
                Arrival::After(i, think) => {
                    sent[i] + f64::from(workload.requests[i].output) * workload.pod.step + think
                }
            });
        }
        assert!(sent.is_sorted());
        for third in 0..3 {
            let seconds = sent[third * 2_000 + 1_999] - sent[third * 2_000];
            assert!((200.0..300.0).contains(&seconds), "{third}: {seconds}");
        }
    }
}
