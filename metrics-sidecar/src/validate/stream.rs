//! Reads the server-sent events of an answer: when its first token came, its text, its token counts.

use bytes::BytesMut;
use serde::Deserialize;

/// Token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Prompt tokens.
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Counts as a pod would tell them.
    #[must_use]
    pub fn new(prompt_tokens: u64, cached_tokens: Option<u64>) -> Self {
        Self { prompt_tokens, prompt_tokens_details: Some(Details { cached_tokens }) }
    }

    /// Prompt tokens that came from the cache. vLLM leaves the member out where there were none, and also where it
    /// runs without `--enable-prompt-tokens-details`.
    #[must_use]
    pub fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details?.cached_tokens
    }
}

/// One chunk of `/v1/chat/completions` or `/v1/completions`.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<serde::de::IgnoredAny>,
}

impl Choice {
    /// Whether it brings a generated token. The chunk with the role alone does not, and a model that ends at once
    /// brings only the reason.
    fn generated(&self) -> bool {
        let delta = &self.delta;
        let texts = [&delta.content, &delta.reasoning, &delta.reasoning_content, &self.text];
        texts.into_iter().flatten().any(|text| !text.is_empty())
            || !delta.tool_calls.is_empty()
            || self.finish_reason.is_some()
    }
}

/// Collects what matters from a stream that arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Whether a generated token has come.
    pub generated: bool,
    /// The answer, without what the model thought.
    pub text: String,
    /// The last counts seen.
    pub usage: Option<Usage>,
    /// Whether `[DONE]` has come.
    pub done: bool,
    /// What came that should not have.
    pub broken: Option<&'static str>,
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
            Ok(chunk) if chunk.error.is_some() => self.broken = Some("an error in the stream"),
            Ok(chunk) => {
                self.usage = chunk.usage.or(self.usage);
                for choice in chunk.choices {
                    self.generated |= choice.generated();
                    self.text.push_str(choice.delta.content.or(choice.text).as_deref().unwrap_or_default());
                }
            }
            Err(_) => self.broken = Some("a chunk that is not JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        : a comment\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"!\"},\"finish_reason\":\"stop\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn pieces_of_any_size_read_the_same() {
        for size in 1..STREAM.len() {
            let mut reader = Reader::default();
            STREAM.as_bytes().chunks(size).for_each(|piece| reader.push(piece));
            assert!(reader.generated && reader.done && reader.broken.is_none(), "pieces of {size}");
            assert_eq!(reader.text, "Hi!");
            assert_eq!(reader.usage, Some(Usage::new(9, Some(8))));
        }
    }

    fn generated(choice: &str) -> bool {
        let mut reader = Reader::default();
        reader.push(format!("data: {{\"choices\":[{choice}]}}\n").as_bytes());
        assert_eq!(reader.broken, None);
        reader.generated
    }

    #[test]
    fn the_role_alone_is_no_token() {
        assert!(!generated(r#"{"delta":{"role":"assistant","content":""},"finish_reason":null}"#));
        assert!(!generated(r#"{"delta":{"role":"assistant"}}"#));
        for token in [
            r#"{"delta":{"content":"a"}}"#,
            r#"{"delta":{"reasoning":"a"}}"#,
            r#"{"delta":{"reasoning_content":"a"}}"#,
            r#"{"delta":{"tool_calls":[{"index":0}]}}"#,
            r#"{"text":"a"}"#,
            r#"{"text":"","finish_reason":"stop"}"#,
        ] {
            assert!(generated(token), "{token}");
        }
    }

    #[test]
    fn no_cached_tokens_told_is_not_none_cached() {
        for usage in [r#"{"prompt_tokens":9}"#, r#"{"prompt_tokens":9,"prompt_tokens_details":null}"#] {
            let mut reader = Reader::default();
            reader.push(format!("data: {{\"choices\":[],\"usage\":{usage}}}\n").as_bytes());
            assert_eq!(reader.usage.unwrap().cached_tokens(), None);
        }
    }

    #[test]
    fn errors_in_the_stream_are_seen() {
        for bad in ["data: oops\n", "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n"] {
            let mut reader = Reader::default();
            reader.push(bad.as_bytes());
            assert!(reader.broken.is_some() && !reader.generated, "{bad}");
        }
    }
}
