//! The four generating APIs: how each request is read and how each answer is written.

mod chat;
mod completions;
mod messages;
mod responses;

use super::prompt;
use super::tokens::Token;
use super::words::Words;
use crate::json::Json;

/// An API, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages` (Anthropic)
    Messages,
}

/// Output length where the request names none. vLLM would go on to the end of its context.
const DEFAULT_OUTPUT: u64 = 16;

/// Token counts of a whole request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt: usize,
    /// Of these, tokens from the cache.
    pub cached: usize,
    /// Output tokens.
    pub output: usize,
}

/// A request that was understood.
pub struct Ask {
    /// One prompt, or several for a batch of completions.
    pub prompts: Vec<Vec<Token>>,
    /// Tokens to generate for each, at least one.
    pub output_len: usize,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether the stream ends with a usage chunk (`stream_options.include_usage`).
    pub include_usage: bool,
    /// `cache_salt`.
    pub salt: Option<String>,
}

impl Ask {
    /// Reads a body; the error says what is wrong with it.
    pub fn read(api: Api, body: &Json) -> Result<Self, String> {
        let prompts = match api {
            Api::Chat => vec![prompt::chat(body)?],
            Api::Completions => prompt::plain(body.get("prompt").unwrap_or(&Json::Null))?,
            Api::Responses => vec![prompt::responses(body)?],
            Api::Messages => vec![prompt::anthropic(body)?],
        };
        let limits = match api {
            Api::Chat => ["max_completion_tokens", "max_tokens"].as_slice(),
            Api::Completions | Api::Messages => &["max_tokens"],
            Api::Responses => &["max_output_tokens"],
        };
        let limit = limits.iter().find_map(|name| body.get(name)?.as_u64());
        let options = body.get("stream_options");
        Ok(Self {
            prompts,
            output_len: usize::try_from(limit.unwrap_or(DEFAULT_OUTPUT).max(1)).unwrap_or(usize::MAX),
            stream: body.get("stream").is_some_and(Json::is_true),
            include_usage: options.is_some_and(|options| options.get("include_usage").is_some_and(Json::is_true)),
            salt: body.str_at("cache_salt").map(str::to_owned),
        })
    }
}

/// What every part of an answer repeats.
pub struct Head {
    /// Unique number of the answer.
    pub serial: u64,
    /// The model's name, as a JSON string with its quotes.
    pub model: String,
    /// Unix seconds.
    pub created: u64,
    /// Prompt tokens of the whole request.
    pub prompt_tokens: usize,
}

/// Writes one answer in an API's format.
pub trait Format: Send {
    /// What is sent before the prompt is computed.
    fn begin(&mut self, _out: &mut String) {}
    /// Output token `index` of `choice`; `last` where it ends that choice.
    fn token(&mut self, out: &mut String, choice: usize, index: usize, words: Words, last: bool);
    /// The end of the stream.
    fn end(&mut self, out: &mut String, words: Words, usage: Usage);
    /// The whole answer at once; `texts` are the choices.
    fn whole(&self, texts: &[String], usage: Usage) -> String;
}

/// The format of an API's answers.
pub fn format(api: Api, head: Head, include_usage: bool) -> Box<dyn Format> {
    match api {
        Api::Chat => Box::new(chat::Chat { head, include_usage }),
        Api::Completions => Box::new(completions::Completions { head, include_usage }),
        Api::Responses => Box::new(responses::Responses::new(head)),
        Api::Messages => Box::new(messages::Messages { head }),
    }
}

/// The id of an answer of `/v1/responses`.
pub fn response_id(serial: u64) -> String {
    format!("resp_{serial:016x}")
}

/// OpenAI's usage object, in vLLM's key order.
fn openai_usage(usage: Usage) -> String {
    let Usage { prompt, cached, output } = usage;
    let total = prompt + output;
    format!(
        "{{\"prompt_tokens\":{prompt},\"total_tokens\":{total},\"completion_tokens\":{output},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}"
    )
}

#[cfg(test)]
mod tests;
