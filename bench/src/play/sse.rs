//! Reads a stream of server-sent events of `/v1/chat/completions`.

use bytes::BytesMut;
use serde::Deserialize;

/// Token counts as a pod reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Absent unless vLLM runs with `--enable-prompt-tokens-details`.
    pub prompt_tokens_details: Option<Details>,
}

/// Part of [`Usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Details {
    /// Prompt tokens that came from the cache; absent reads as none.
    pub cached_tokens: Option<u64>,
}

impl Usage {
    /// Prompt tokens that came from the cache.
    pub fn cached_tokens(&self) -> u64 {
        let details = self.prompt_tokens_details.unwrap_or_default();
        details.cached_tokens.unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<serde::de::IgnoredAny>,
    usage: Option<Usage>,
}

/// Collects what matters from a stream that arrives in arbitrary pieces.
#[derive(Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Whether a chunk with a choice has come.
    pub answered: bool,
    /// The last usage seen.
    pub usage: Option<Usage>,
    /// Whether `[DONE]` has come.
    pub done: bool,
    /// Whether something else than a chunk has come.
    pub broken: bool,
}

impl Reader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            if let Some(data) = line.strip_prefix(b"data:") {
                self.data(data.trim_ascii());
            }
        }
    }

    fn data(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        match serde_json::from_slice::<Chunk>(data) {
            Ok(chunk) => {
                self.answered |= !chunk.choices.is_empty();
                self.usage = chunk.usage.or(self.usage);
            }
            Err(_) => self.broken = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
        : a comment\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\r\n\r\n\
        data: [DONE]\n\n";

    #[test]
    fn pieces_of_any_size_read_the_same() {
        for size in 1..STREAM.len() {
            let mut reader = Reader::default();
            STREAM.as_bytes().chunks(size).for_each(|piece| reader.push(piece));
            assert!(reader.answered && reader.done && !reader.broken, "pieces of {size}");
            let usage = reader.usage.expect("usage");
            assert_eq!((usage.prompt_tokens, usage.cached_tokens()), (9, 8));
        }
    }

    #[test]
    fn an_unfinished_stream_is_not_done() {
        let mut reader = Reader::default();
        reader.push(&STREAM.as_bytes()[..60]);
        assert!(reader.answered && !reader.done && reader.usage.is_none());
    }

    #[test]
    fn usage_without_details_reads_as_nothing_cached() {
        let mut reader = Reader::default();
        reader.push(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\n");
        assert_eq!(reader.usage.map(|usage| usage.cached_tokens()), Some(0));
        reader.push(b"data: oops\n");
        assert!(reader.broken);
    }
}
