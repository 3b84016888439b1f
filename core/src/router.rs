//! One request's way through view and policy: candidates in, decision out.

use crate::config::Config;
use crate::index::Slot;
use crate::placement::{Candidates, Outcome, Policy, PredictedTtft, Priority, Ranked, Reason, Saturation};
use crate::prefix::Boundary;
use crate::request::{LoadOnly, Prompt};
use crate::table::State;
use crate::units::{EndpointId, Millis, ResponseKey, Seconds, Tokens, mix};
use crate::view::View;
use gathering::{Asked, Gathering};

/// One place to send the request to.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its place in the view.
    pub slot: Slot,
    /// Who it is.
    pub id: EndpointId,
    /// `ip:port`.
    pub address: String,
    /// Data-parallel rank.
    pub rank: Option<u32>,
    /// Tokens of the prompt that it is believed to hold.
    pub matched: Tokens,
    /// Its predicted time to first token.
    pub predicted: Seconds,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Best first: the choice, then where retries go, all of the same data-parallel rank: one header names it for all.
    /// Empty for a fallback.
    pub choices: Vec<Choice>,
    /// Why.
    pub reason: Reason,
    /// The pool's place in the configuration.
    pub pool: usize,
    /// Size of the prompt by what is known of bytes and tokens.
    pub prompt: Tokens,
    /// Most of it that an endpoint is believed to hold, chosen or not.
    pub most: Tokens,
}

/// What to place.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A prompt that was read.
    Prompt(&'a Prompt),
    /// One that could not be: placed by load alone. Its model, if that much was read.
    Load {
        /// `model`
        model: Option<&'a str>,
    },
    /// One that goes on from a stored answer, or asks for it: placed where that is; where nobody knows, by load.
    Stored {
        /// Which.
        response: ResponseKey,
        /// `model`
        model: Option<&'a str>,
    },
}

impl<'a> Request<'a> {
    /// What was read of a body, the stored answer that it is about, and its model.
    #[must_use]
    pub fn new(read: Result<&'a Prompt, LoadOnly>, stored: Option<ResponseKey>, model: Option<&'a str>) -> Self {
        match (read, stored) {
            (Ok(prompt), _) => Self::Prompt(prompt),
            (Err(_), Some(response)) => Self::Stored { response, model },
            (Err(_), None) => Self::Load { model },
        }
    }

    pub(crate) fn model(&self) -> Option<&'a str> {
        match self {
            Self::Prompt(p) => p.model.as_deref(),
            Self::Load { model } | Self::Stored { model, .. } => *model,
        }
    }
}

/// Decides. Holds scratch memory, so that a decision allocates only its answer.
#[derive(Debug, Default)]
pub struct Router {
    pub(crate) policy: PredictedTtft,
    pub(crate) saturation: Saturation,
    pub(crate) gathering: Gathering,
    pub(crate) ranked: Vec<Ranked>,
}

impl Router {
    /// A router by this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            policy: PredictedTtft { weights: config.placement.weights() },
            saturation: config.saturation.rule(),
            ..Self::default()
        }
    }

    /// Where to send `request`, and where to try next.
    pub fn decide(
        &mut self,
        config: &Config,
        view: &View,
        request: Request<'_>,
        priority: Priority,
        now: Millis,
    ) -> Decision {
        self.order(config, view, request, priority, now, config.limits.choices)
    }

    /// The same, with at least the `best` first candidates in order.
    pub(crate) fn order(
        &mut self,
        config: &Config,
        view: &View,
        request: Request<'_>,
        priority: Priority,
        now: Millis,
        best: usize,
    ) -> Decision {
        self.gathering.clear();
        self.ranked.clear();
        let model = request.model();
        let pool = config.pool_of(model);
        let (boundaries, bytes): (&[Boundary], u32) = match request {
            Request::Prompt(p) => (&p.boundaries, p.bytes),
            Request::Load { .. } => (&[], 0),
            Request::Stored { response, .. } => match pinned(config, view, response, pool) {
                Some(decision) => return decision,
                None => (&[], 0),
            },
        };
        let asked = Asked { pool: config.pool_name(pool), model, boundaries, bytes, now };
        self.gathering.gather(view, asked, self.saturation.limits.waiting.is_some());
        let candidates = self.gathering.candidates(view);
        // Limits may take out any of the first, and a rank most of them.
        let best = if self.gathering.has_ranks() || self.saturation.has_limits() { usize::MAX } else { best };
        let most_bytes = self.gathering.most();
        let mut reason = match request {
            Request::Prompt(_) => {
                self.policy.rank(&candidates, novelty(boundaries, most_bytes), best, &mut self.ranked)
            }
            Request::Load { .. } | Request::Stored { .. } => {
                // Equally loaded endpoints take turns: there is no prefix by which to agree.
                match self.policy.rank(&candidates, mix(now.0, 1), best, &mut self.ranked) {
                    Reason::Fallback => Reason::Fallback,
                    _ => Reason::LoadOnly,
                }
            }
        };
        match self.saturation.apply(&candidates, &mut self.ranked, priority) {
            Outcome::Moved if matches!(reason, Reason::Warm | Reason::Spread) => reason = Reason::Spill,
            Outcome::Moved | Outcome::Kept => {}
            Outcome::Shed => reason = Reason::Shed,
        }
        let mut choices = self.ranked.iter().filter_map(|r| choice(view, &candidates, r)).peekable();
        let rank = choices.peek().and_then(|first| first.rank);
        let choices = choices.filter(|c| c.rank == rank).take(config.limits.choices).collect();
        Decision { choices, reason, pool, prompt: view.tokens(bytes), most: view.tokens(most_bytes.min(bytes)) }
    }
}

fn choice(view: &View, candidates: &impl Candidates, ranked: &Ranked) -> Option<Choice> {
    let candidate = candidates.get(ranked.candidate)?;
    let endpoint = &view.known(candidate.slot)?.endpoint;
    Some(Choice {
        slot: candidate.slot,
        id: endpoint.id,
        address: endpoint.address.clone(),
        rank: endpoint.rank,
        matched: candidate.matched,
        predicted: ranked.predicted,
    })
}

/// The decision for a request that can be answered at one endpoint only, if that is known. It is not left for load, and
/// not while it drains: nobody else has what the request goes on from.
fn pinned(config: &Config, view: &View, response: ResponseKey, pool: usize) -> Option<Decision> {
    let (slot, known) = view.stored_at(response).filter(|(_, k)| k.endpoint.state != State::Failing)?;
    let endpoint = &known.endpoint;
    let choice = Choice {
        slot,
        id: endpoint.id,
        address: endpoint.address.clone(),
        rank: endpoint.rank,
        matched: Tokens(0),
        predicted: view.overhead(known),
    };
    // Its pool is that of the endpoint: a request for a stored answer names no model.
    let pool = config.pools.iter().position(|p| p.name == endpoint.pool).unwrap_or(pool);
    Some(Decision { choices: vec![choice], reason: Reason::Pinned, pool, prompt: Tokens(0), most: Tokens(0) })
}

/// The first boundary that lies well past what anybody holds (or the last one).
fn novelty(boundaries: &[Boundary], held: u32) -> u64 {
    let past = held.saturating_add(512);
    boundaries.iter().find(|b| b.end >= past).or(boundaries.last()).map_or(0, |b| b.hash.0)
}

mod gathering;

#[cfg(test)]
mod tests;
