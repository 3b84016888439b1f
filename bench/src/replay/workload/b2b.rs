//! Business customers: each tenant's prompts share a long beginning, and the same prompts come again and again.

use super::draw::{Draft, Draw};
use super::{Arrival, PodShape, Prompt, Request, Workload};

const TENANTS: u32 = 150;
const PROMPTS: u32 = 5;
const SHARED: u32 = 6_000;
const OWN: u32 = 1_200;
/// Tokens generated.
pub const OUTPUT: u32 = 1_000;

/// 750 prompts of 150 tenants, each request one of them, as they come.
pub fn b2b(rate: f64, seed: u64, requests: usize) -> Workload {
    let mut draw = Draw::new(seed);
    let mut segments = 0;
    let prompts = prompts(TENANTS, &mut segments);
    let mut now = 0.0;
    let request = |_| {
        now += draw.gap(rate);
        let prompt = prompts[draw.range(0, prompts.len() as u32) as usize].clone();
        Request { arrival: Arrival::At(now), prompt, output: OUTPUT }
    };
    Workload {
        name: "b2b".to_owned(),
        requests: (0..requests).map(request).collect(),
        endpoints: 8,
        pod: PodShape { capacity: 300_000, ..PodShape::default() },
        events: Vec::new(),
    }
}

/// The prompts of so many tenants.
pub fn prompts(tenants: u32, ids: &mut u32) -> Vec<Prompt> {
    let mut all = Vec::new();
    for _ in 0..tenants {
        let shared = Draft::default().and(SHARED, ids);
        all.extend((0..PROMPTS).map(|i| shared.and(OWN, ids).prompt(u64::from(i))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::measure::{duration, shared};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn prompts_of_a_tenant_share_its_beginning() {
        let all = prompts(2, &mut 0);
        assert_eq!((all[0].tokens, all[0].bytes), (7_200, 28_800));
        assert_eq!([shared(&all[0], &all[0]), shared(&all[0], &all[4]), shared(&all[0], &all[5])], [7_200, 6_000, 0]);
    }

    #[test]
    fn it_has_its_rate_and_all_prompts() {
        let workload = b2b(10.0, 1, 10_000);
        assert!((duration(&workload) - 1_000.0).abs() < 50.0, "{}", duration(&workload));
        let seen: HashSet<_> = workload.requests.iter().map(|r| r.prompt.segments[1].id).collect();
        assert_eq!(seen.len(), 750);
    }
}
