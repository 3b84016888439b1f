//! Workloads that are hard on rules that follow the cache.

use super::b2b;
use super::draw::{Draft, Draw};
use super::{Arrival, PodShape, Prompt, Request, Workload};

/// All share a system prompt as long as an agent's, and nothing else: any pod is as good as the next once it knows it.
pub fn huge_system(rate: f64, seed: u64, requests: usize) -> Workload {
    const SYSTEM: u32 = 24_000;
    let mut ids = 0;
    let system = Draft::default().and(SYSTEM, &mut ids);
    let prompts = |_: &mut Draw, number| (system.and(300, &mut ids).prompt(number), 150);
    let requests = poisson(rate, seed, requests, prompts);
    workload("huge-system", requests)
}

/// Prompts that nobody ever sends again: there is nothing to follow.
pub fn one_off(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut ids = 0;
    let prompts = |draw: &mut Draw, number| {
        let tokens = draw.tokens(4_000.0, 0.8, 200, 60_000);
        (Draft::default().and(tokens, &mut ids).prompt(number), 200)
    };
    let requests = poisson(rate, seed, requests, prompts);
    workload("one-off", requests)
}

/// When the crowd comes and goes, as shares of the time, and its share of the requests meanwhile.
const CROWD: (f64, f64) = (0.4, 0.6);
const CROWD_SHARE: f64 = 0.7;

/// Tenants as in [`b2b`]; for a fifth of the time, twice as many requests come and most of them are a crowd's on one
/// new prompt. `rate` is the mean over all.
pub fn flash_crowd(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut draw = Draw::new(seed);
    let mut ids = 0;
    let tenants = b2b::prompts(60, &mut ids);
    let crowd = Draft::default().and(12_000, &mut ids);
    let duration = requests as f64 / rate;
    let calm = rate / (1.0 + CROWD.1 - CROWD.0);
    let mut now = 0.0;
    let mut all = Vec::with_capacity(requests);
    while all.len() < requests {
        now += draw.gap(2.0 * calm);
        let crowded = (CROWD.0 * duration..CROWD.1 * duration).contains(&now);
        // At twice the calm rate throughout; of these, every second one in calm times.
        if !crowded && draw.share() < 0.5 {
            continue;
        }
        let (prompt, output) = if crowded && draw.share() < CROWD_SHARE {
            (crowd.and(200, &mut ids).prompt(all.len() as u64), 300)
        } else {
            (tenants[draw.range(0, tenants.len() as u32) as usize].clone(), b2b::OUTPUT)
        };
        all.push(Request { arrival: Arrival::At(now), prompt, output });
    }
    workload("flash-crowd", all)
}

fn poisson(
    rate: f64,
    seed: u64,
    requests: usize,
    mut prompt: impl FnMut(&mut Draw, u64) -> (Prompt, u32),
) -> Vec<Request> {
    let mut draw = Draw::new(seed);
    let mut now = 0.0;
    let request = |number| {
        now += draw.gap(rate);
        let (prompt, output) = prompt(&mut draw, number);
        Request { arrival: Arrival::At(now), prompt, output }
    };
    (0..requests as u64).map(request).collect()
}

fn workload(name: &str, requests: Vec<Request>) -> Workload {
    let pod = PodShape { capacity: 300_000, ..PodShape::default() };
    Workload { name: name.to_owned(), requests, endpoints: 8, pod, events: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::measure::{duration, infinite_hit_ratio, shared};
    use super::*;

    #[test]
    fn all_share_the_system_prompt_and_nothing_else() {
        let workload = huge_system(20.0, 1, 2_000);
        let [a, b] = [0, 1].map(|i| &workload.requests[i].prompt);
        assert_eq!((shared(a, b), a.tokens), (24_000, 24_300));
        assert!((duration(&workload) - 100.0).abs() < 10.0);
    }

    #[test]
    fn nothing_is_shared_by_one_offs() {
        let workload = one_off(20.0, 1, 2_000);
        assert_eq!(infinite_hit_ratio(&workload), 0.0);
        let short = workload.requests.iter().filter(|r| r.prompt.tokens < 4_000).count();
        assert!((900..1_100).contains(&short), "{short}");
    }

    #[test]
    fn the_crowd_comes_in_its_time_on_one_prompt() {
        let workload = flash_crowd(12.0, 1, 6_000);
        let crowd = |r: &&Request| r.prompt.tokens == 12_200;
        let at = |r: &Request| if let Arrival::At(at) = r.arrival { at } else { f64::NAN };
        assert!((duration(&workload) - 500.0).abs() < 25.0);
        let crowds: Vec<_> = workload.requests.iter().filter(crowd).collect();
        assert!(crowds.iter().all(|r| (200.0..300.0).contains(&at(r))));
        assert_eq!(shared(&crowds[0].prompt, &crowds[1].prompt), 12_000);
        let meanwhile = workload.requests.iter().filter(|r| (200.0..300.0).contains(&at(r))).count();
        assert!((1_850..2_150).contains(&meanwhile), "{meanwhile}: twice ten a second");
        let share = crowds.len() as f64 / meanwhile as f64;
        assert!((share - CROWD_SHARE).abs() < 0.04, "{share}");
    }
}
