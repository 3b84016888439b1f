//! One replay: a workload, a policy, simulated time.

use super::cache::Cache;
use super::pod::{Pod, Told};
use super::policy::{Answered, Asked, Place, Policy, Scrape, Setting};
use super::workload::{Arrival, Fate, PodEvent, Request, Workload};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What became of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Seconds after the start.
    pub sent: f64,
    /// Where it went.
    pub pod: usize,
    /// Seconds until its first token.
    pub ttft: f64,
    /// Seconds after the start when its answer ended.
    pub ended: f64,
    /// Prompt tokens found in the cache.
    pub cached: u32,
    /// Prompt tokens that the policy believed cached, if it has a belief.
    pub believed: Option<u64>,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Of each request, in the workload's order.
    pub requests: Vec<Outcome>,
    /// Prompt tokens that one cache as large as all pods' together would have found.
    pub pooled: u64,
    /// Prompt tokens that a cache without end would have found.
    pub infinite: u64,
    /// Seconds in which each pod computed.
    pub busy: Vec<f64>,
    /// Requests that lost their memory while they ran.
    pub preempted: u64,
    /// Requests without a first token at the moment when the last one was sent.
    pub unstarted: usize,
}

/// What happens, in the order in which simultaneous things do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Fate(usize),
    Step(usize),
    Scrape,
    Arrive(usize),
}

/// Moments as integers, so that they have an order: nanoseconds.
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

struct Sim<'a> {
    workload: &'a Workload,
    policy: &'a mut dyn Policy,
    now: f64,
    agenda: BinaryHeap<Reverse<(u64, What)>>,
    /// The moment of each pod's entry in the agenda that counts; others are left over.
    due: Vec<u64>,
    pods: Vec<Pod>,
    scrape: Vec<Scrape>,
    places: Vec<Place>,
    followers: Vec<Vec<(usize, f64)>>,
    left: usize,
    rng: SmallRng,
    pooled: Bound,
    infinite: Bound,
    out: Outcomes,
}

/// Plays a workload. The policy must be made for the same setting.
pub fn play(workload: &Workload, policy: &mut dyn Policy, setting: &Setting) -> Outcomes {
    let requests = &workload.requests;
    let joins = |pod| workload.events.iter().any(|e| e.pod == pod && e.fate == Fate::Joins);
    let mut sim = Sim {
        workload,
        policy,
        now: 0.0,
        agenda: BinaryHeap::new(),
        due: vec![u64::MAX; setting.pods],
        pods: (0..setting.pods).map(|_| Pod::new(workload.pod)).collect(),
        scrape: (0..setting.pods)
            .map(|pod| Scrape { present: !joins(pod), choosable: !joins(pod), ..Scrape::default() })
            .collect(),
        places: Vec::new(),
        followers: vec![Vec::new(); requests.len()],
        left: requests.len(),
        rng: SmallRng::seed_from_u64(setting.seed ^ 0x5eed),
        pooled: Bound::new(workload.pod.capacity * setting.pods as u64),
        infinite: Bound::new(u64::MAX),
        out: Outcomes { requests: vec![Outcome::default(); requests.len()], ..Outcomes::default() },
    };
    sim.places = requests
        .iter()
        .map(|_| Place {
            gateway: sim.rng.random_range(0..setting.gateways),
            worker: sim.rng.random_range(0..setting.workers),
        })
        .collect();
    for (i, request) in requests.iter().enumerate() {
        match request.arrival {
            Arrival::At(at) => sim.agenda.push(Reverse((nanos(at), What::Arrive(i)))),
            Arrival::After(before, think) => sim.followers[before].push((i, think)),
        }
    }
    for (i, event) in workload.events.iter().enumerate().filter(|(_, e)| e.pod < setting.pods) {
        sim.agenda.push(Reverse((nanos(event.at), What::Fate(i))));
    }
    sim.agenda.push(Reverse((0, What::Scrape)));
    sim.run();
    sim.out
}

impl Sim<'_> {
    fn run(&mut self) {
        let mut told = Vec::new();
        while let Some(Reverse((at, what))) = self.agenda.pop() {
            if let What::Step(pod) = what
                && self.due[pod] != at
            {
                continue;
            }
            self.now = at as f64 * 1e-9;
            match what {
                What::Arrive(i) => self.arrive(i),
                What::Scrape => self.scrape(),
                What::Fate(i) => self.befall(self.workload.events[i]),
                What::Step(pod) => {
                    let end = self.pods[pod].next().unwrap_or(self.now);
                    self.pods[pod].advance(&self.workload.requests, end, &mut told);
                    self.schedule(pod);
                    for t in told.drain(..) {
                        self.hear(pod, t);
                    }
                }
            }
            if self.left == 0 {
                break;
            }
        }
        self.out.busy = self.pods.iter().map(|p| p.busy).collect();
        self.out.preempted = self.pods.iter().map(|p| p.preempted).sum();
        (self.out.pooled, self.out.infinite) = (self.pooled.found, self.infinite.found);
    }

    fn schedule(&mut self, pod: usize) {
        let due = self.pods[pod].next().map_or(u64::MAX, |t| nanos(t).max(nanos(self.now)));
        if due != std::mem::replace(&mut self.due[pod], due) && due != u64::MAX {
            self.agenda.push(Reverse((due, What::Step(pod))));
        }
    }

    fn arrive(&mut self, number: usize) {
        let request = &self.workload.requests[number];
        let asked = Asked { number, place: self.places[number], prompt: &request.prompt, now: self.now };
        let pod = self.policy.choose(&asked);
        self.pooled.take(request);
        self.infinite.take(request);
        let outcome = &mut self.out.requests[number];
        (outcome.sent, outcome.pod, outcome.believed) = (self.now, pod, self.policy.believed());
        self.pods[pod].submit(&self.workload.requests, number, self.now);
        self.schedule(pod);
        self.out.unstarted = self.pods.iter().map(Pod::unstarted).sum();
    }

    fn hear(&mut self, pod: usize, told: Told) {
        match told {
            Told::FirstToken { number } => {
                let outcome = &mut self.out.requests[number];
                outcome.ttft = self.now - outcome.sent;
                self.policy.first_token(number, self.places[number], pod, outcome.ttft, self.now);
            }
            Told::Done { number, cached } => {
                let outcome = &mut self.out.requests[number];
                (outcome.ended, outcome.cached) = (self.now, cached);
                let request = &self.workload.requests[number];
                self.policy.answered(&Answered {
                    number,
                    place: self.places[number],
                    pod,
                    prompt: request.prompt.tokens,
                    cached,
                    output: request.output,
                    now: self.now,
                });
                self.left -= 1;
                for (next, think) in std::mem::take(&mut self.followers[number]) {
                    self.agenda.push(Reverse((nanos(self.now + think), What::Arrive(next))));
                }
            }
        }
    }

    fn scrape(&mut self) {
        for (pod, scrape) in self.pods.iter().zip(&mut self.scrape) {
            (scrape.running, scrape.waiting) = pod.queue();
            scrape.kv_usage = pod.kv_usage();
        }
        self.policy.scraped(&self.scrape, self.now);
        self.agenda.push(Reverse((nanos(self.now + self.policy.scrape_interval()), What::Scrape)));
    }

    fn befall(&mut self, event: PodEvent) {
        let pod = event.pod;
        match event.fate {
            Fate::LosesCache { told } => {
                self.pods[pod].restart(&self.workload.requests, self.now);
                self.scrape[pod].incarnation += u32::from(told);
                self.schedule(pod);
            }
            Fate::Joins => (self.scrape[pod].present, self.scrape[pod].choosable) = (true, true),
            Fate::Leaves => {
                self.scrape[pod].choosable = false;
                // Readiness is watched, not scraped: gateways hear of it at once.
                self.policy.scraped(&self.scrape, self.now);
            }
            Fate::Slows(factor) => self.pods[pod].slow(factor),
        }
    }
}

/// One cache for all, whose content is there at once.
struct Bound {
    cache: Cache,
    capacity: u64,
    found: u64,
}

impl Bound {
    fn new(capacity: u64) -> Self {
        Self { cache: Cache::default(), capacity, found: 0 }
    }

    fn take(&mut self, request: &Request) {
        let prompt = &request.prompt;
        let reusable = u64::from(prompt.tokens.saturating_sub(1));
        self.found += self.cache.hit(&prompt.segments).min(reusable);
        for s in &prompt.segments {
            self.cache.reference(s.id);
            self.cache.grow(s.id, s.tokens);
        }
        self.cache.release(&prompt.segments);
        self.cache.evict(self.cache.resident().saturating_sub(self.capacity));
    }
}
