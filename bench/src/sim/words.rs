//! The text a simulated model "generates": deterministic, and one token a word.

use super::tokens::{Token, token_of};
use crate::hash::mix;

/// Each word is short enough to be one token with its leading space, so that a client which sends the answer back
/// as the next turn's history gets the very tokens that were generated.
const WORDS: [&str; 32] = [
    " able", " again", " agree", " ahead", " allow", " answer", " around", " ask", " begin", " book", " bring",
    " change", " check", " cost", " detail", " early", " flight", " follow", " give", " help", " item", " keep",
    " later", " look", " make", " offer", " order", " plan", " ready", " return", " ticket", " update",
];

/// One answer's words, fixed by its seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Words {
    seed: u64,
}

impl Words {
    /// The answer that `seed` (a hash of the prompt) decides.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Text of output token `index`.
    pub fn text(self, index: usize) -> &'static str {
        let pick = mix(self.seed.wrapping_add(index as u64)) as usize % WORDS.len();
        let word = WORDS[pick];
        if index == 0 { &word[1..] } else { word }
    }

    /// Id of output token `index`.
    pub fn token(self, index: usize) -> Token {
        token_of(self.text(index).as_bytes())
    }

    /// The first `count` tokens as one text.
    pub fn join(self, count: usize) -> String {
        (0..count).map(|index| self.text(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokenize;
    use super::*;

    #[test]
    fn the_text_reads_back_as_the_generated_tokens() {
        let words = Words::new(7);
        let generated: Vec<Token> = (0..50).map(|index| words.token(index)).collect();
        assert_eq!(tokenize(&words.join(50)), generated);
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(Words::new(1).join(9), Words::new(1).join(9));
        assert_ne!(Words::new(1).join(9), Words::new(2).join(9));
    }
}
