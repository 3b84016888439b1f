//! Rules of placement, one file each: warmpath's own code and what others do.

mod blocks;
mod bounded_hash;
mod fleet;
mod higress;
mod least_request;
mod llmd;
mod llmd_tuned;
mod longest_prefix;
mod preble;
mod random;
mod round_robin;
mod smg;
mod warmpath;

use super::workload::Prompt;
use warmpath_core::config::Config;

/// Makes a rule for a setting.
type Make = fn(&Setting) -> Box<dyn Policy>;

/// All rules by name.
const ALL: [(&str, Make); 12] = [
    ("warmpath", |s| Box::new(warmpath::Warmpath::new(s))),
    ("random", |s| Box::new(random::Random::new(s))),
    ("round-robin", |s| Box::new(round_robin::RoundRobin::new(s))),
    ("least-request", |s| Box::new(least_request::LeastRequest::new(s))),
    ("bounded-hash", |s| Box::new(bounded_hash::BoundedHash::new(s))),
    ("longest-prefix", |s| Box::new(longest_prefix::LongestPrefix::new(s))),
    ("llm-d", |s| Box::new(llmd::LlmD::new(s))),
    ("llm-d-tuned", |s| Box::new(llmd_tuned::LlmDTuned::new(s))),
    ("smg", |s| Box::new(smg::Smg::new(s))),
    ("higress", |s| Box::new(higress::Higress::new(s))),
    ("higress-redis", |s| Box::new(higress::Higress::shared(s))),
    ("preble", |s| Box::new(preble::Preble::new(s))),
];

/// The names of all rules.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The rule of that name.
pub fn parse(name: &str) -> Result<&'static str, String> {
    names().find(|n| *n == name).ok_or_else(|| format!("expected one of {}", names().collect::<Vec<_>>().join(", ")))
}

/// Makes a rule by its name, as [`parse`] returned it.
pub fn make(name: &str, setting: &Setting) -> Box<dyn Policy> {
    let make = ALL.iter().find(|(n, _)| *n == name).map_or(ALL[0].1, |(_, make)| *make);
    make(setting)
}

/// What a gateway sees of one pod at a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scrape {
    /// Identity: changes when the pod is seen to have restarted.
    pub incarnation: u32,
    /// Whether it is there at all.
    pub present: bool,
    /// Whether it may be chosen; if so, it is there.
    pub choosable: bool,
    /// Requests being computed.
    pub running: u32,
    /// Requests that wait for admission.
    pub waiting: u32,
    /// KV memory held by requests in flight, 0 to 1.
    pub kv_usage: f64,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which gateway replica.
    pub gateway: usize,
    /// Which of its worker VMs.
    pub worker: usize,
}

/// One request at a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Unique number.
    pub number: usize,
    /// Where.
    pub place: Place,
    /// Its prompt.
    pub prompt: &'a Prompt,
    /// When, in seconds since the start.
    pub now: f64,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The request's number.
    pub number: usize,
    /// Where it came in.
    pub place: Place,
    /// Which pod answered.
    pub pod: usize,
    /// Prompt tokens.
    pub prompt: u32,
    /// Of these, found in the cache.
    pub cached: u32,
    /// Tokens generated.
    pub output: u32,
    /// When, in seconds since the start.
    pub now: f64,
}

/// A rule of placement, with the memory of all gateways' VMs: what they share is the rule's own business.
pub trait Policy {
    /// The pod to send a request to: an index into the last scrape, of a choosable pod.
    fn choose(&mut self, asked: &Asked<'_>) -> usize;
    /// A request's first token came, `ttft` seconds after it was sent.
    fn first_token(&mut self, _number: usize, _place: Place, _pod: usize, _ttft: f64, _now: f64) {}
    /// A request's answer ended.
    fn answered(&mut self, _answer: &Answered) {}
    /// All pods were scraped; the first scrape comes before the first request.
    fn scraped(&mut self, pods: &[Scrape], now: f64);
    /// Seconds between two scrapes.
    fn scrape_interval(&self) -> f64;
    /// How many prompt tokens the pod chosen for the last request was believed to hold, where the rule has a belief.
    fn believed(&self) -> Option<u64> {
        None
    }
}

/// What a rule is made for.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Gateway replicas.
    pub gateways: usize,
    /// Worker VMs of each.
    pub workers: usize,
    /// Seconds until a gateway hears of another's decisions; infinite: never.
    pub gossip: f64,
    /// Pods, counting those that have yet to join.
    pub pods: usize,
    /// Tokens of KV memory of each.
    pub capacity: u64,
    /// Prompt tokens a second that a pod computes (only for rules that are configured with it).
    pub prefill_rate: f64,
    /// For the rule's random choices.
    pub seed: u64,
    /// Plugin configuration, for warmpath.
    pub config: Config,
}
