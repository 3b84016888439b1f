//! Who may be chosen for a request. One walk over the endpoints finds out; what is asked of one is worked out when it is
//! asked for, and not kept: the ranking of a thousand reads little of most.

use crate::index::{Match, Slot};
use crate::placement::{Candidate, Candidates};
use crate::prefix::Boundary;
use crate::units::{Millis, Tokens};
use crate::view::View;

/// A prompt that nobody was asked about weighs this much: an engine has something to do for it.
const UNKNOWN_PROMPT: Tokens = Tokens(256);

/// What the endpoints are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The pool to choose from; any, if none is configured.
    pub pool: Option<&'a str>,
    pub model: Option<&'a str>,
    /// Empty where the prompt was not read; `bytes` is 0 then.
    pub boundaries: &'a [Boundary],
    pub bytes: u32,
    pub now: Millis,
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug)]
struct Eligible {
    slot: Slot,
    held: Match,
    matched: Tokens,
    uncached: Tokens,
    serves: bool,
    has_adapter: bool,
    fails: bool,
}

/// Those that may be chosen. Keeps its memory from one request to the next.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    matches: Vec<Match>,
    eligible: Vec<Eligible>,
    /// Bytes of the prompt that the warmest of them hold.
    most: u32,
    adapter_is_loaded: bool,
    has_ranks: bool,
    asks_waiting: bool,
    now: Millis,
}

impl Gathering {
    pub(super) fn clear(&mut self) {
        self.eligible.clear();
    }

    /// Finds out, after [`Self::clear`]. `asks_waiting`: whether [`Candidate::waiting`] will be read.
    pub(super) fn gather(&mut self, view: &View, asked: Asked<'_>, asks_waiting: bool) {
        let Asked { boundaries, bytes, now, .. } = asked;
        view.index().matches(boundaries, &mut self.matches);
        let pool = asked.pool.map(|name| view.name(name));
        let model = asked.model.and_then(|m| view.name(m));
        let (mut serving, mut failing) = (0, 0);
        (self.adapter_is_loaded, self.has_ranks, self.asks_waiting, self.now) = (false, false, asks_waiting, now);
        // Most endpoints hold as much of it as the one before: nothing, or a beginning that all share.
        let mut last = (0, (Tokens(0), if bytes == 0 { UNKNOWN_PROMPT } else { view.tokens(bytes) }));
        for (slot, known) in view.endpoints() {
            if !known.is_choosable() || pool.is_some_and(|name| name.is_none_or(|n| !known.is_in(n))) {
                continue;
            }
            let held = self.matches.get(slot.0 as usize).map_or(Match::default(), |m| m.at_most(bytes));
            if held.bytes != last.0 {
                last = (held.bytes, (view.tokens(held.bytes), view.tokens(bytes - held.bytes)));
            }
            let (matched, uncached) = last.1;
            let serves = model.is_some_and(|m| view.serves(known, m));
            let has_adapter = model.is_some_and(|m| view.has_loaded(known, m));
            let fails = known.failures.is_avoided(now);
            serving += usize::from(serves);
            failing += usize::from(fails);
            self.adapter_is_loaded |= has_adapter;
            self.has_ranks |= known.endpoint.rank.is_some();
            self.eligible.push(Eligible { slot, held, matched, uncached, serves, has_adapter, fails });
        }
        // Who says that it serves the model comes first; if nobody says so, the engine may: it knows aliases.
        if serving > 0 && serving < self.eligible.len() {
            self.eligible.retain(|e| e.serves);
        }
        // Whom recent failures speak against is left alone, unless that would be all.
        if failing > 0 && self.eligible.iter().any(|e| !e.fails) {
            self.eligible.retain(|e| !e.fails);
        }
        self.most = self.eligible.iter().map(|e| e.held.bytes).max().unwrap_or(0);
    }

    /// Bytes of the prompt that the warmest of them hold.
    pub(super) fn most(&self) -> u32 {
        self.most
    }

    /// Whether there are data-parallel ranks among the pool's endpoints.
    pub(super) fn has_ranks(&self) -> bool {
        self.has_ranks
    }

    /// Those that may be chosen, as this view has them. It is the one that they were gathered from.
    pub(crate) fn candidates<'a>(&'a self, view: &'a View) -> Gathered<'a> {
        Gathered { view, of: self, reuse: view.reuse() }
    }
}

/// See [`Gathering::candidates`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathered<'a> {
    view: &'a View,
    of: &'a Gathering,
    reuse: f64,
}

impl Candidates for Gathered<'_> {
    fn count(&self) -> usize {
        self.of.eligible.len()
    }

    #[inline(always)]
    fn get(&self, at: usize) -> Option<Candidate> {
        let (view, now) = (self.view, self.of.now);
        let eligible = self.of.eligible.get(at)?;
        let known = view.known(eligible.slot)?;
        let cache = view.index().cache(eligible.slot.0)?;
        let rate = view.prefill_rate(known, now);
        let overhead = view.overhead(known);
        Some(Candidate {
            slot: eligible.slot,
            id: known.endpoint.id,
            matched: eligible.matched,
            sharing: if eligible.held.bytes == self.of.most { view.index().sharing(eligible.held) } else { 0 },
            uncached: eligible.uncached,
            overhead,
            backlog: known.load.backlog(rate, overhead, now),
            lateness: known.load.lateness(now),
            kv: view.kv_pressure(known, cache.pinned, eligible.uncached),
            prefill_rate: rate,
            in_flight: known.load.in_flight(),
            foreign: known.foreign,
            waiting: if self.of.asks_waiting { known.waiting(rate, now) } else { 0 },
            loads_adapter: self.of.adapter_is_loaded && !eligible.has_adapter,
            room: cache.room(),
            reuse: self.reuse,
            turnover: cache.oldest_use().map(|at| now.since(at)),
        })
    }

    fn warmest(&self) -> Option<Candidate> {
        let holders = self.of.eligible.iter().enumerate().filter(|(_, e)| e.held.bytes == self.of.most);
        let (at, _) = holders.max_by_key(|(_, e)| self.view.index().sharing(e.held))?;
        self.get(at)
    }
}
