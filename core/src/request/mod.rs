//! What of an LLM request decides the KV cache, read once while its chunks arrive.
//!
//! Top-level order and unrelated members (`temperature`, `stream`, …) do not matter, because clients send `tools` after
//! `messages` and may send `cache_salt` last: the context and the identifying members are digested apart, and
//! mixed into each boundary's key at the end ([`Reader::finish`]). Inside messages and tools every member counts, in its
//! order, because it reaches the rendered prompt.

mod canonical;
mod checkpoints;
mod fields;
mod reader;
mod stage;

pub use checkpoints::{Checkpoints, ResumingReader};
pub use fields::{ApiKind, stored_response};
pub use reader::Reader;

use crate::prefix::Boundary;

/// What a request says of its prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// `model`: a model or LoRA adapter.
    pub model: Option<String>,
    /// Where the prompt may be cut, ascending. Empty when it is to be placed by load alone.
    pub boundaries: Vec<Boundary>,
    /// Size of the prompt in canonical bytes; boundaries are measured in the same.
    pub bytes: u32,
    /// `stream: true`.
    pub stream: bool,
    /// `max_tokens` or its newer names; what a client asks for at most.
    pub max_tokens: Option<u32>,
    /// It carries a `cache_salt`: equal text under another salt is cached apart.
    pub salted: bool,
}

/// Why a request is placed by load alone. It is passed on unchanged: the pod says 400 where that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadOnly {
    /// No body at all.
    Empty,
    /// Not JSON, or cut off.
    NotJson,
    /// Not UTF-8.
    NotUtf8,
    /// Nested too deep.
    TooDeep,
    /// A member that identifies the prompt stands twice: parsers differ in which one counts.
    DuplicateMember,
    /// JSON, but not of the shape that its path promises.
    UnknownShape,
    /// No messages, prompt or input.
    NoPrompt,
    /// Goes on from state that the server keeps (`previous_response_id`, `conversation`): the prefix is not in the body.
    Stateful,
    /// `Content-Encoding`: the body is compressed.
    Compressed,
    /// The prompt was not complete at the limit of what may be held back.
    TooLarge,
    /// A path without a prompt to match (embeddings and the like).
    NoPrefix,
}

impl LoadOnly {
    /// All causes, for counters.
    pub const ALL: [Self; 11] = [
        Self::Empty,
        Self::NotJson,
        Self::NotUtf8,
        Self::TooDeep,
        Self::DuplicateMember,
        Self::UnknownShape,
        Self::NoPrompt,
        Self::Stateful,
        Self::Compressed,
        Self::TooLarge,
        Self::NoPrefix,
    ];

    /// The name in stats.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotJson => "not_json",
            Self::NotUtf8 => "not_utf8",
            Self::TooDeep => "too_deep",
            Self::DuplicateMember => "duplicate_member",
            Self::UnknownShape => "unknown_shape",
            Self::NoPrompt => "no_prompt",
            Self::Stateful => "stateful",
            Self::Compressed => "compressed",
            Self::TooLarge => "too_large",
            Self::NoPrefix => "no_prefix",
        }
    }
}

#[cfg(test)]
mod tests;
