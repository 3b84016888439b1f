//! Why tokens of a prompt had to be computed: each missed token has one cause.

use crate::units::Tokens;

/// Why a prompt token was not found in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nobody held it: the workload's own.
    New,
    /// The same, but the prompt carries a `cache_salt`: the text may well be cached under another, where it cannot be
    /// used.
    OtherSalt,
    /// Another endpoint held it and was left for load.
    Left,
    /// It was believed to be there and was not.
    Stale,
    /// The same, and nothing else of the prompt was there either: the endpoint has lost its cache.
    Restart,
    /// The prompt was not read or could not be matched.
    Unread,
}

impl Cause {
    /// All causes, for counters.
    pub const ALL: [Self; 6] = [Self::New, Self::OtherSalt, Self::Left, Self::Stale, Self::Restart, Self::Unread];

    /// The name in stats.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::OtherSalt => "other_salt",
            Self::Left => "left",
            Self::Stale => "stale",
            Self::Restart => "restart",
            Self::Unread => "unread",
        }
    }
}

/// What was believed of one prompt when it was placed, and what its answer said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    /// Prompt tokens as the engine counted them.
    pub prompt: Tokens,
    /// Of these, found in the cache.
    pub cached: Tokens,
    /// Size of the prompt by our own estimate; the two figures below are of the same kind.
    pub estimated: Tokens,
    /// Most that any endpoint was believed to hold.
    pub most: Tokens,
    /// What the endpoint that answered was believed to hold.
    pub matched: Tokens,
    /// The prompt carries a `cache_salt`.
    pub salted: bool,
    /// The prompt was read.
    pub read: bool,
}

/// A prompt's missed tokens by cause, in the order of [`Cause::ALL`]; they add up to `prompt - cached`. And the tokens that
/// were cached though nobody was believed to hold them there.
#[must_use]
pub fn attribute(a: &Answered) -> ([Tokens; Cause::ALL.len()], Tokens) {
    let mut misses = [Tokens(0); Cause::ALL.len()];
    let mut add = |cause: Cause, tokens: u64| {
        if let Some(place) = misses.get_mut(cause as usize) {
            place.0 += tokens;
        }
    };
    let missed = a.prompt.saturating_sub(a.cached).0;
    if !a.read || a.estimated.0 == 0 {
        add(Cause::Unread, missed);
        return (misses, Tokens(0));
    }
    // By the engine's count.
    let scale = a.prompt.0 as f64 / a.estimated.0 as f64;
    let scaled = |t: Tokens| ((t.0 as f64 * scale) as u64).min(a.prompt.0);
    let (matched, most) = (scaled(a.matched), scaled(a.most.max(a.matched)));
    let stale = matched.saturating_sub(a.cached.0);
    let left = (most - matched).min(missed - stale);
    add(if a.cached.0 < 64 && stale >= 256 { Cause::Restart } else { Cause::Stale }, stale);
    add(Cause::Left, left);
    add(if a.salted { Cause::OtherSalt } else { Cause::New }, missed - stale - left);
    (misses, Tokens(a.cached.0.saturating_sub(matched)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(prompt: u64, cached: u64, most: u64, matched: u64) -> Answered {
        let [prompt, cached, most, matched] = [prompt, cached, most, matched].map(Tokens);
        Answered { prompt, cached, estimated: prompt, most, matched, salted: false, read: true }
    }

    fn misses(a: &Answered) -> Vec<(&'static str, u64)> {
        let (misses, _) = attribute(a);
        Cause::ALL.iter().zip(misses).filter(|(_, t)| t.0 > 0).map(|(c, t)| (c.name(), t.0)).collect()
    }

    #[test]
    fn each_cause_has_its_tokens() {
        assert_eq!(misses(&of(1000, 800, 800, 800)), [("new", 200)]);
        assert_eq!(misses(&of(1000, 100, 800, 100)), [("new", 200), ("left", 700)]);
        assert_eq!(misses(&of(1000, 500, 800, 800)), [("new", 200), ("stale", 300)]);
        assert_eq!(misses(&of(1000, 0, 800, 800)), [("new", 200), ("restart", 800)]);
        assert_eq!(misses(&Answered { salted: true, ..of(1000, 0, 0, 0) }), [("other_salt", 1000)]);
        assert_eq!(misses(&Answered { read: false, ..of(1000, 0, 0, 0) }), [("unread", 1000)]);
        assert_eq!(attribute(&of(1000, 900, 800, 800)).1, Tokens(100));
    }

    proptest! {
        #[test]
        fn the_causes_add_up(
            prompt in 0..1_000_000_u64, cached: u64, estimated in 0..1_000_000_u64, most: u64, matched: u64, salted: bool,
        ) {
            let [prompt, cached, estimated, most, matched] =
                [prompt, cached % (prompt + 1), estimated, most, matched].map(Tokens);
            let (misses, _) = attribute(&Answered { prompt, cached, estimated, most, matched, salted, read: true });
            prop_assert_eq!(misses.iter().map(|t| t.0).sum::<u64>(), prompt.0 - cached.0);
        }
    }
}
