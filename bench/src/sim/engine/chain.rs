//! The growing chain of block hashes of one request.

use super::blocks::BlockHash;
use crate::hash::{fnv, mix};
use crate::sim::tokens::Token;

/// Tokens of one request as the KV cache sees them: full blocks as hashes, and an open last block.
///
/// As in vLLM, the LoRA adapter is mixed into every block and `cache_salt` into the first. Names of the base model
/// are aliases of one model and are not mixed in.
pub struct Chain {
    block_size: usize,
    hashes: Vec<BlockHash>,
    /// Hash of everything before the open block, and what the open block holds so far.
    parent: u64,
    open: u64,
    open_len: usize,
    extra: u64,
}

impl Chain {
    /// The chain of a prompt.
    pub fn new(block_size: usize, lora: Option<&str>, salt: Option<&str>, tokens: &[Token]) -> Self {
        let extra = lora.map_or(0, |name| fnv(name.as_bytes()));
        let parent = salt.map_or(1, |salt| mix(fnv(salt.as_bytes())));
        let mut chain = Self {
            block_size,
            hashes: Vec::with_capacity(tokens.len() / block_size + 4),
            parent,
            open: 0,
            open_len: 0,
            extra,
        };
        chain.restart();
        for &token in tokens {
            chain.push(token);
        }
        chain
    }

    /// Appends one token.
    pub fn push(&mut self, token: Token) {
        self.open = mix(self.open ^ u64::from(token));
        self.open_len += 1;
        if self.open_len == self.block_size {
            self.hashes.push(BlockHash(self.open));
            self.parent = self.open;
            self.restart();
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.hashes.len() * self.block_size + self.open_len
    }

    /// Hashes of the full blocks, in order.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Hashes that may be looked up: never the whole prompt, its last token must be computed to get an output.
    pub fn reusable(&self) -> &[BlockHash] {
        let most = self.len().saturating_sub(1) / self.block_size;
        &self.hashes[..most.min(self.hashes.len())]
    }

    /// A seed for what is "generated" after this prompt.
    pub fn seed(&self) -> u64 {
        self.open
    }

    fn restart(&mut self) {
        self.open = mix(self.parent ^ self.extra.rotate_left(17));
        self.open_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(lora: Option<&str>, salt: Option<&str>, count: Token) -> Chain {
        Chain::new(4, lora, salt, &(0..count).collect::<Vec<_>>())
    }

    #[test]
    fn pushed_tokens_hash_as_a_prompt_would() {
        let mut grown = chain(None, None, 6);
        (6..13).for_each(|token| grown.push(token));
        assert_eq!(grown.hashes(), chain(None, None, 13).hashes());
        assert_eq!((grown.len(), grown.hashes().len()), (13, 3));
    }

    #[test]
    fn salt_and_adapter_change_every_block() {
        let plain = chain(None, None, 12);
        for other in [chain(None, Some("s"), 12), chain(Some("s"), None, 12)] {
            assert!(plain.hashes().iter().zip(other.hashes()).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn the_last_token_is_always_computed() {
        assert_eq!(chain(None, None, 8).reusable().len(), 1);
        assert_eq!(chain(None, None, 9).reusable().len(), 2);
        assert_eq!(chain(None, None, 0).reusable().len(), 0);
    }
}
