//! Placement: which endpoint answers soonest, and why. One file a policy, each behind [`Policy`].

mod predicted_ttft;
mod saturation;

pub use predicted_ttft::{PredictedTtft, Terms, Weights};
pub use saturation::{Limits, Outcome, Priority, Saturation, WhenSaturated};

use crate::index::Slot;
use crate::units::{EndpointId, Seconds, Tokens};
use crate::view::KvPressure;

/// One endpoint that may be chosen, as seen at the moment of the decision.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the view.
    pub slot: Slot,
    /// Who it is.
    pub id: EndpointId,
    /// Tokens of the prompt that it holds.
    pub matched: Tokens,
    /// Prompts in flight there that end where the match ends or go on differently from it; see [`crate::index::Index::sharing`].
    /// 0 where others hold more.
    pub sharing: u32,
    /// Tokens of the prompt that it would have to compute.
    pub uncached: Tokens,
    /// The part of its time to first token that no token of the prompt is the reason for.
    pub overhead: Seconds,
    /// Time until its prefill could begin.
    pub backlog: Seconds,
    /// How late the first token is that it has owed for longest.
    pub lateness: Seconds,
    /// What the prompt meets in its KV cache.
    pub kv: KvPressure,
    /// Tokens a second that it prefills.
    pub prefill_rate: f64,
    /// Requests sent there and not over.
    pub in_flight: u32,
    /// Requests there that this gateway knows nothing of.
    pub foreign: u32,
    /// Requests that wait there for their turn; 0 unless there is a limit for it.
    pub waiting: u32,
    /// The request's LoRA adapter is on other GPUs, and would have to be loaded here first.
    pub loads_adapter: bool,
    /// How long a cached prompt lives there; `None` while its cache is not full.
    pub turnover: Option<Seconds>,
    /// Share of its cache that is empty, 0 to 1.
    pub room: f64,
    /// How likely what it evicts would have been asked for again, 0 to 1.
    pub reuse: f64,
}

/// Whether a prompt is warm where so much of it is believed to be cached: at least half, and not none.
#[must_use]
pub fn is_warm(matched: Tokens, prompt: Tokens) -> bool {
    matched.0 > 0 && matched.0.saturating_mul(2) >= prompt.0
}

/// Why an endpoint was chosen: counted in the stats, told in the debug headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It holds more of the prompt than any other.
    Warm,
    /// Another holds more, but this one answers sooner.
    Spill,
    /// What others hold of it is a beginning that many prompts share, and they are busy: here it is computed once more,
    /// for this prompt and those that follow.
    Spread,
    /// Nobody holds any of it.
    Cold,
    /// The prompt could not be matched.
    LoadOnly,
    /// It goes on from a stored answer, which is there and nowhere else.
    Pinned,
    /// All endpoints are saturated, and the configuration refuses such requests.
    Shed,
    /// No endpoint to choose: Envoy's own policy decides.
    Fallback,
}

impl Reason {
    /// All reasons, for counters.
    pub const ALL: [Self; 8] =
        [Self::Warm, Self::Spill, Self::Spread, Self::Cold, Self::LoadOnly, Self::Pinned, Self::Shed, Self::Fallback];

    /// Its number in the journal: its place in [`Reason::ALL`], which only grows at the end.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The reason with that number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name in stats and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Spill => "spill",
            Self::Spread => "spread",
            Self::Cold => "cold",
            Self::LoadOnly => "load_only",
            Self::Pinned => "pinned",
            Self::Shed => "shed",
            Self::Fallback => "fallback",
        }
    }
}

/// A candidate's rank.
#[derive(Clone, Copy, Debug)]
pub struct Ranked {
    /// Which candidate, by its index in the list.
    pub candidate: usize,
    /// See [`Candidate::matched`].
    pub matched: Tokens,
    /// See [`Candidate::in_flight`].
    pub in_flight: u32,
    /// Its predicted time to first token, without charges that only steer.
    pub predicted: Seconds,
    /// What it was compared by.
    pub cost: Seconds,
    /// Of those that are equals of the cheapest: fewest requests in flight first, then the largest number drawn (0 for all
    /// but those with the fewest).
    pub draw: Option<f64>,
}

/// Those that may be chosen. One that is asked for may be worked out anew each time.
pub trait Candidates {
    /// How many there are.
    fn count(&self) -> usize;

    /// One of them; `None` from [`Candidates::count`] on.
    fn get(&self, at: usize) -> Option<Candidate>;

    /// The one that holds most; among equals the one whose match more prompts in flight share.
    fn warmest(&self) -> Option<Candidate> {
        (0..self.count()).filter_map(|at| self.get(at)).max_by_key(|c| (c.matched, c.sharing))
    }
}

/// A rule of placement.
pub trait Policy {
    /// Ranks the candidates: the first is the choice, the next are where a retry goes. Only the `best` first ones are put
    /// in order, the others follow in any. `novelty` is the hash of the first part of the prompt that nobody holds: equal
    /// for prompts that would be placed anew together.
    fn rank(&self, candidates: &impl Candidates, novelty: u64, best: usize, ranked: &mut Vec<Ranked>) -> Reason;
}

#[cfg(test)]
impl Candidates for &[Candidate] {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, at: usize) -> Option<Candidate> {
        (**self).get(at).copied()
    }
}

#[cfg(test)]
impl Candidate {
    /// An endpoint with nothing to do, asked for 10,000 tokens of which it holds `matched`, at 10,000 tokens a second.
    fn idle(n: u32, matched: u64) -> Self {
        Self {
            slot: Slot(n),
            id: EndpointId(u64::from(n) * 77 + 5),
            matched: Tokens(matched),
            sharing: 0,
            uncached: Tokens(10_000 - matched),
            overhead: Seconds(0.02),
            backlog: Seconds(0.0),
            lateness: Seconds(0.0),
            kv: KvPressure::default(),
            prefill_rate: 10_000.0,
            in_flight: 0,
            foreign: 0,
            waiting: 0,
            loads_adapter: false,
            turnover: None,
            room: 1.0,
            reuse: 1.0,
        }
    }
}
