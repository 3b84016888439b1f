//! The simulator's own tokeniser: prefix-stable, about 4 bytes a token on English and JSON, no vocabulary.
//!
//! A piece is a run of letters and digits with the white-space character before it, or a run of anything else; each
//! piece is cut every [`PIECE_BYTES`] bytes, and a token's id is a hash of its bytes. What comes later in a text
//! never changes an earlier token, except the one that the text ended in.

use crate::hash::fnv;

/// Longest token, in bytes. A word of up to seven letters with its space is one token.
const PIECE_BYTES: usize = 8;

/// Id of one token.
pub type Token = u32;

/// The id of the token that holds exactly these bytes.
pub fn token_of(piece: &[u8]) -> Token {
    let hash = fnv(piece);
    // Folding keeps both halves; truncation is the point.
    (hash ^ (hash >> 32)) as u32
}

/// The tokens of a text.
pub fn tokenize(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 3 + 1);
    let mut start = 0;
    while start < bytes.len() {
        let end = piece_end(bytes, start);
        tokens.extend(bytes[start..end].chunks(PIECE_BYTES).map(token_of));
        start = end;
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// One past the last byte of the piece that starts at `start`.
fn piece_end(bytes: &[u8], start: usize) -> usize {
    let run = |from: usize, word: bool| {
        let rest = &bytes[from..];
        // A run of non-words leaves its last space to the word that follows, as byte-level BPE does.
        let end = rest.iter().position(|&byte| is_word(byte) != word);
        from + end.unwrap_or(rest.len())
    };
    if is_word(bytes[start]) {
        return run(start, true);
    }
    let next_is_word = bytes.get(start + 1).is_some_and(|&byte| is_word(byte));
    if bytes[start] == b' ' && next_is_word {
        return run(start + 1, true);
    }
    let end = run(start, false);
    let ends_in_space = bytes[end - 1] == b' ' && end < bytes.len() && end - start > 1;
    if ends_in_space { end - 1 } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_text_keeps_the_tokens_of_its_prefix() {
        let text = "{\"name\": \"get_user_details\", \"n\": [1, 2]}\n\nHello there,  extraordinary world! é";
        let all = tokenize(text);
        for (cut, _) in text.char_indices() {
            let prefix = tokenize(&text[..cut]);
            // The token at the cut, and a space before it, may still grow.
            let stable = prefix.len().saturating_sub(2);
            assert_eq!(prefix[..stable], all[..stable], "cut at {cut}");
        }
    }

    #[test]
    fn short_words_are_one_token_with_their_space() {
        assert_eq!(tokenize("the cache is warm").len(), 4);
        assert_eq!(tokenize(" cache"), vec![token_of(b" cache")]);
        assert_eq!(tokenize("unbelievable").len(), 2);
    }

    #[test]
    fn different_texts_get_different_tokens() {
        assert_ne!(tokenize("abc"), tokenize("abd"));
        assert!(tokenize("").is_empty());
    }
}
