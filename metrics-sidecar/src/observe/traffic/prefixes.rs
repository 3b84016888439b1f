//! The prefixes that save most: counted at each boundary that a request found, by its hash alone.
//!
//! A request that finds a long prefix also finds all shorter ones of it, so each chain of boundaries has many counts
//! that say much the same. Shown is only the one of a chain that has saved most: hits x tokens.

use std::collections::{HashMap, HashSet};
use warmpath_core::prefix::Boundary;
use warmpath_core::units::{PrefixHash, Tokens};

/// Boundaries that are counted, about 40 bytes each.
const MOST: usize = 20_000;

#[derive(Clone, Copy, Debug)]
struct Counted {
    hits: u64,
    tokens: u64,
    end: u32,
    /// The boundary before it in the prompt.
    parent: Option<PrefixHash>,
}

impl Counted {
    fn saved(&self) -> u64 {
        self.hits.saturating_mul(self.tokens)
    }
}

/// A prefix that was found often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top {
    /// Its last boundary.
    pub boundary: Boundary,
    /// Its length.
    pub tokens: u64,
    /// How often it was found, of late.
    pub hits: u64,
}

/// The counts. From time to time, and when there is no room for more, all are halved, and those that were found once are forgotten: what
/// was found long ago counts less and less.
#[derive(Debug, Default)]
pub struct Prefixes {
    counted: HashMap<PrefixHash, Counted>,
}

impl Prefixes {
    /// A request found `matched` of its `prompt` tokens. Both were taken from bytes by one and the same number of bytes
    /// a token, so their ratio is that of bytes, whatever has been learned of that number since.
    pub fn found(&mut self, boundaries: &[Boundary], bytes: u32, prompt: Tokens, matched: Tokens) {
        if matched.0 == 0 || prompt.0 == 0 {
            return;
        }
        let bytes_per_token = f64::from(bytes) / prompt.0 as f64;
        // Tokens are rounded down, boundaries stand further apart than a token is long.
        let end = (matched.0.saturating_add(1) as f64 * bytes_per_token) as u32;
        let mut parent = None;
        for boundary in boundaries.iter().take_while(|boundary| boundary.end <= end) {
            let tokens = (f64::from(boundary.end) / bytes_per_token) as u64;
            let new = Counted { hits: 0, tokens, end: boundary.end, parent };
            let counted = self.counted.entry(boundary.hash).or_insert(new);
            counted.hits = counted.hits.saturating_add(1);
            counted.tokens = tokens;
            parent = Some(boundary.hash);
        }
        while self.counted.len() > MOST {
            self.halve();
        }
    }

    /// Makes what was found so far count half.
    pub fn halve(&mut self) {
        // An ancestor was found whenever its descendants were, so none of these is left without its own.
        self.counted.retain(|_, counted| {
            counted.hits >>= 1;
            counted.hits > 0
        });
    }

    /// Those that saved most, of each chain one.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<Top> {
        let mut all: Vec<(&PrefixHash, &Counted)> = self.counted.iter().collect();
        // Of equals the longer one, then any, but always the same.
        all.sort_unstable_by_key(|(hash, counted)| std::cmp::Reverse((counted.saved(), counted.end, **hash)));
        let mut top: Vec<Top> = Vec::new();
        let (mut chosen, mut above) = (HashSet::new(), HashSet::new());
        for (hash, counted) in all {
            if top.len() >= most {
                break;
            }
            let chain: Vec<PrefixHash> = self.ancestors(counted).collect();
            if above.contains(hash) || chain.iter().any(|ancestor| chosen.contains(ancestor)) {
                continue;
            }
            chosen.insert(*hash);
            above.extend(chain);
            let boundary = Boundary { end: counted.end, hash: *hash };
            top.push(Top { boundary, tokens: counted.tokens, hits: counted.hits });
        }
        top
    }

    fn ancestors(&self, of: &Counted) -> impl Iterator<Item = PrefixHash> {
        std::iter::successors(of.parent, |hash| self.counted.get(hash)?.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt whose boundaries stand 400 bytes, 100 tokens, apart.
    fn prompt(hashes: &[u64]) -> Vec<Boundary> {
        (1..).zip(hashes).map(|(n, hash)| Boundary { end: n * 400, hash: PrefixHash(*hash) }).collect()
    }

    fn find(prefixes: &mut Prefixes, hashes: &[u64], matched: u64) {
        let boundaries = prompt(hashes);
        let tokens = Tokens(hashes.len() as u64 * 100);
        prefixes.found(&boundaries, tokens.0 as u32 * 4, tokens, Tokens(matched));
    }

    fn shown(prefixes: &Prefixes) -> Vec<(u64, u64, u64)> {
        prefixes.top(10).iter().map(|top| (top.boundary.hash.0, top.tokens, top.hits)).collect()
    }

    #[test]
    fn a_chain_shows_the_one_that_saved_most() {
        let mut prefixes = Prefixes::default();
        for end in 10..20 {
            find(&mut prefixes, &[1, 2, end], 200);
        }
        find(&mut prefixes, &[1, 2, 10], 300);
        find(&mut prefixes, &[7, 8], 200);
        assert_eq!(shown(&prefixes), [(2, 200, 11), (8, 200, 1)]);
    }

    #[test]
    fn branches_that_save_more_than_their_common_beginning_are_shown_each() {
        let mut prefixes = Prefixes::default();
        for branch in [10, 20] {
            for _ in 0..5 {
                find(&mut prefixes, &[1, branch, branch + 1, branch + 2], 400);
            }
        }
        let mut top = shown(&prefixes);
        top.sort_unstable();
        assert_eq!(top, [(12, 400, 5), (22, 400, 5)]);
    }

    #[test]
    fn only_what_was_matched_counts_whatever_a_token_is_long() {
        let mut prefixes = Prefixes::default();
        for (bytes, tokens, matched) in [(1200, 1001, 667), (1200, 300, 200), (1200, 40, 26)] {
            let mut prefixes = Prefixes::default();
            prefixes.found(&prompt(&[1, 2, 3]), bytes, Tokens(tokens), Tokens(matched));
            assert_eq!(prefixes.top(1)[0].boundary.hash, PrefixHash(2), "{matched} of {tokens}");
        }
        prefixes.found(&prompt(&[1, 2]), 800, Tokens(200), Tokens(0));
        prefixes.found(&[], 800, Tokens(0), Tokens(0));
        assert!(prefixes.top(1).is_empty());
    }

    #[test]
    fn counts_are_bounded_and_the_frequent_ones_stay() {
        let mut prefixes = Prefixes::default();
        for _ in 0..8 {
            find(&mut prefixes, &[1, 2], 200);
        }
        for n in 0..30_000 {
            find(&mut prefixes, &[100 + n * 2, 101 + n * 2], 200);
            assert!(prefixes.counted.len() <= MOST);
        }
        assert_eq!(shown(&prefixes)[0], (2, 200, 1), "three times halved");
        for counted in prefixes.counted.values() {
            assert!(prefixes.ancestors(counted).all(|hash| prefixes.counted.contains_key(&hash)));
        }
    }
}
