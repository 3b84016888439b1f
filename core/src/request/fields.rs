//! Which API a path is, and what each top-level member of its body means.

use super::LoadOnly;
use crate::units::ResponseKey;

/// An API that vLLM serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiKind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages` (Anthropic)
    Messages,
    /// `/v1/responses/{id}` and `/v1/responses/{id}/cancel`: about a stored answer, which is at one pod only.
    Stored,
    /// Served by the same pods, but without a prefix to match: placed by load alone.
    Other,
}

/// Paths of vLLM that cost the GPU something but have no prefix worth matching.
const OTHER: [&str; 12] = [
    "/v1/embeddings",
    "/embeddings",
    "/v1/score",
    "/score",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/pooling",
    "/classify",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/inference/v1/generate",
];

impl ApiKind {
    /// All kinds, for counters.
    pub const ALL: [Self; 6] =
        [Self::Chat, Self::Completions, Self::Responses, Self::Messages, Self::Stored, Self::Other];

    /// The API of a request, or `None` for one that is none of ours: it passes untouched. `prefix` is what the
    /// gateway's route puts before vLLM's paths (usually nothing).
    #[must_use]
    pub fn of(method: &str, path: &str, prefix: &str) -> Option<Self> {
        if let Some((_, action)) = stored(path, prefix) {
            let is_ours = matches!((method, action), ("GET" | "DELETE", "") | ("POST", "cancel"));
            return is_ours.then_some(Self::Stored);
        }
        if method != "POST" {
            return None;
        }
        match of_vllm(path, prefix)? {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completions),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            other => OTHER.contains(&other).then_some(Self::Other),
        }
    }

    /// Why a body of it is not read, whatever is in it. `encoding` gives its `Content-Encoding`, where that matters.
    #[must_use]
    pub fn unread(self, encoding: impl FnOnce() -> Option<String>) -> Option<LoadOnly> {
        match self {
            Self::Stored => Some(LoadOnly::Stateful),
            // Nothing in the body matters, and it may be a large upload.
            Self::Other => Some(LoadOnly::NoPrefix),
            _ => encoding().filter(|e| !e.eq_ignore_ascii_case("identity")).map(|_| LoadOnly::Compressed),
        }
    }

    /// The name in stats.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Stored => "stored",
            Self::Other => "other",
        }
    }

    /// Mixed into each key, because the APIs render prompts differently.
    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Chat => 1,
            Self::Completions => 2,
            Self::Responses => 3,
            Self::Messages => 4,
            Self::Other => 5,
            Self::Stored => 6,
        }
    }
}

/// A path as vLLM knows it.
fn of_vllm<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix(prefix)?;
    Some(path.strip_suffix('/').unwrap_or(path))
}

/// The id of a stored answer, and what is to be done with it.
fn stored<'a>(path: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = of_vllm(path, prefix)?.strip_prefix("/v1/responses/")?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

/// The stored answer that a path of [`ApiKind::Stored`] names.
#[must_use]
pub fn stored_response(path: &str, prefix: &str) -> Option<ResponseKey> {
    stored(path, prefix).map(|(id, _)| ResponseKey::of(id.as_bytes()))
}

/// What a top-level member is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// The conversation: hashed with boundaries.
    Context,
    /// What stands before the conversation in the prompt: hashed with boundaries of its own.
    System,
    /// Identifies the prompt. The number orders the digests; `in_prompt` when its text is part of the prompt.
    Identity { number: u8, in_prompt: bool },
    /// `model`
    Model,
    /// `stream`
    Stream,
    /// `max_tokens` and its other names
    MaxTokens,
    /// A value other than null makes the request unreadable for that reason.
    Bars(LoadOnly),
    /// `previous_response_id`: bars the request as [`LoadOnly::Stateful`], and says where its state is.
    Previous,
    /// Does not reach the prompt.
    Ignored,
}

/// Orders `cache_salt` among the members that identify a prompt.
pub(super) const SALT: u8 = 0;

impl Member {
    /// The meaning of `key` at the top level of an `api` body.
    pub(super) fn of(api: ApiKind, key: &[u8]) -> Self {
        let identity = |number, in_prompt| Self::Identity { number, in_prompt };
        match (api, key) {
            (_, b"model") => Self::Model,
            (_, b"stream") => Self::Stream,
            (_, b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens") => Self::MaxTokens,
            (_, b"cache_salt") => identity(SALT, false),
            (ApiKind::Chat | ApiKind::Messages, b"messages") => Self::Context,
            (ApiKind::Completions, b"prompt") => Self::Context,
            (ApiKind::Responses, b"input") => Self::Context,
            (ApiKind::Messages, b"system") | (ApiKind::Responses, b"instructions") => Self::System,
            (ApiKind::Responses, b"previous_response_id") => Self::Previous,
            (ApiKind::Responses, b"conversation" | b"prompt") => Self::Bars(LoadOnly::Stateful),
            // Given as vectors: nothing to compare.
            (ApiKind::Completions, b"prompt_embeds") => Self::Bars(LoadOnly::UnknownShape),
            (ApiKind::Chat | ApiKind::Responses | ApiKind::Messages, b"tools") => identity(1, true),
            (ApiKind::Chat, b"functions") => identity(2, true),
            (ApiKind::Chat, b"documents") => identity(3, true),
            (_, b"chat_template") => identity(4, false),
            (_, b"chat_template_kwargs") => identity(5, false),
            (_, b"reasoning_effort" | b"reasoning") => identity(6, false),
            (_, b"truncate_prompt_tokens") => identity(7, false),
            (_, b"mm_processor_kwargs") => identity(8, false),
            (_, b"add_special_tokens") => identity(9, false),
            _ => Self::Ignored,
        }
    }

    /// Whether its value reaches a hash in its canonical form.
    #[inline]
    pub(super) fn is_hashed(self) -> bool {
        matches!(self, Self::Context | Self::System | Self::Identity { .. })
    }

    /// A bit for each member that must not stand twice.
    pub(super) fn bit(self) -> u32 {
        match self {
            Self::Context => 1 << 16,
            Self::System => 1 << 17,
            Self::Model => 1 << 18,
            Self::Identity { number, .. } => 1 << (number & 15),
            Self::Stream | Self::MaxTokens | Self::Bars(_) | Self::Previous | Self::Ignored => 0,
        }
    }
}

/// Members inside messages, tools and content parts that the engine ignores. `cache_control` marks where a client wants
/// a cache point; agents move it from turn to turn.
pub(super) fn is_ignored_inside(key: &[u8]) -> bool {
    key == b"cache_control"
}
