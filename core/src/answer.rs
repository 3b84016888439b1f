//! The first generated token and `usage`, out of a response that streams by (it is never held back).
//!
//! Reads what vLLM sends on all four APIs: one JSON object, or server-sent events with one JSON object a line.

use crate::json::{Container, Scanner, Sink, keep};
use crate::units::{ResponseKey, Tokens};

/// `usage` as the engine reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: Option<Tokens>,
    /// Of these, tokens whose KV was in the cache. `None` unless vLLM runs with `--enable-prompt-tokens-details`.
    pub cached: Option<Tokens>,
    /// Tokens generated.
    pub output: Option<Tokens>,
}

/// How the response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// `text/event-stream`.
    Events,
}

/// Reads one response, chunk by chunk.
#[derive(Debug)]
pub struct Answer {
    format: Format,
    scanner: Scanner,
    object: Object,
    line: Line,
    /// The bytes of the line's field name so far.
    name: Vec<u8>,
    first_token: bool,
    usage: Usage,
    stored: Option<ResponseKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Name,
    Data,
    Other,
}

impl Answer {
    /// A reader for a response in `format`.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            scanner: Scanner::default(),
            object: Object::default(),
            line: Line::Name,
            name: Vec::new(),
            first_token: false,
            usage: Usage::default(),
            stored: None,
        }
    }

    /// Reads the next chunk. Returns true when it holds the first generated token of an event stream.
    pub fn feed(&mut self, chunk: &[u8]) -> bool {
        if self.format == Format::Json {
            // A response that is no JSON has no usage; the scanner keeps its error.
            let _ = self.scanner.feed(chunk, &mut self.object);
            return false;
        }
        let had = self.first_token;
        let mut rest = chunk;
        while !rest.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let (line, tail) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, &[]));
            self.in_line(line);
            if end.is_some() {
                self.end_line();
            }
            rest = tail.get(1..).unwrap_or_default();
        }
        self.first_token && !had
    }

    /// Whether it is a stream that gave no sign of a token so far.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.format == Format::Events && !self.first_token && self.usage == Usage::default()
    }

    /// What the response said of its tokens so far; all of it at its end.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self.format {
            Format::Json if self.scanner.has_failed() => Usage::default(),
            Format::Json => self.object.usage,
            Format::Events => self.usage,
        }
    }

    /// The answer's id, once it was read: of `/v1/responses`, where a later request may go on from it.
    #[must_use]
    pub fn id(&self) -> Option<ResponseKey> {
        match self.format {
            Format::Json if self.scanner.has_failed() => None,
            Format::Json => self.object.response,
            Format::Events => self.stored,
        }
    }

    fn in_line(&mut self, mut bytes: &[u8]) {
        if self.line == Line::Name {
            let colon = memchr::memchr(b':', bytes);
            let (name, rest) = bytes.split_at_checked(colon.unwrap_or(bytes.len())).unwrap_or((bytes, &[]));
            keep(&mut self.name, name, NAME_LIMIT);
            if colon.is_none() {
                return;
            }
            self.line = if self.name == b"data" { Line::Data } else { Line::Other };
            self.scanner = Scanner::default();
            self.object.restart();
            bytes = rest.get(1..).unwrap_or_default();
        }
        if self.line == Line::Data {
            // `[DONE]` is no JSON, and that is fine.
            let _ = self.scanner.feed(bytes, &mut self.object);
        }
    }

    fn end_line(&mut self) {
        // What was read of an event that is no JSON depends on how it was cut into chunks.
        if self.line == Line::Data && self.scanner.finish(&mut self.object).is_ok() {
            self.first_token |= self.object.is_token();
            self.stored = self.stored.or(self.object.response);
            let new = self.object.usage;
            self.usage.prompt = new.prompt.or(self.usage.prompt);
            self.usage.cached = new.cached.or(self.usage.cached);
            self.usage.output = new.output.or(self.usage.output);
        }
        self.line = Line::Name;
        self.name.clear();
    }
}

/// What one JSON object of a response says. `usage` and `id` stand at the top, or in `response` or `message`.
#[derive(Debug, Default)]
struct Object {
    key: Vec<u8>,
    in_key: bool,
    /// Depth of the members of `usage`, once inside it.
    usage_at: Option<u32>,
    /// Inside `…_details`, one deeper.
    in_details: bool,
    number: Vec<u8>,
    kind: Vec<u8>,
    in_kind: bool,
    id: Vec<u8>,
    in_id: bool,
    /// Inside the member `response`, of an event.
    in_response: bool,
    response: Option<ResponseKey>,
    has_choice: bool,
    usage: Usage,
}

impl Object {
    fn restart(&mut self) {
        *self = Self { key: std::mem::take(&mut self.key), ..Self::default() };
        self.key.clear();
    }

    /// Whether the event carries generated text: chat and completions name a choice, the other APIs the event's type.
    fn is_token(&self) -> bool {
        self.has_choice || self.kind.ends_with(b".delta") || self.kind == b"content_block_delta"
    }
}

/// Bytes of a key, a type or a number that count, and of the field names of events.
const WORD_LIMIT: usize = 64;
const NAME_LIMIT: usize = 8;

impl Sink for Object {
    fn open(&mut self, container: Container, depth: u32) {
        let object = container == Container::Object;
        if object && (1..=2).contains(&depth) && self.key == b"usage" && self.usage_at.is_none() {
            self.usage_at = Some(depth + 1);
        } else if self.usage_at == Some(depth) {
            self.in_details = object && self.key.ends_with(b"_details");
        }
        if object && depth == 1 {
            self.in_response = self.key == b"response";
        }
        // An element of the top-level list `choices`.
        if object && depth == 2 && self.key == b"choices" {
            self.has_choice = true;
        }
    }

    fn close(&mut self, _: Container, depth: u32) {
        match self.usage_at {
            Some(at) if depth + 1 == at => self.usage_at = None,
            Some(at) if depth == at => self.in_details = false,
            _ => {}
        }
    }

    fn string_start(&mut self, key: bool, depth: u32) {
        self.in_key = key;
        if key {
            self.key.clear();
        }
        self.in_kind = !key && depth == 1 && self.key == b"type";
        self.in_id = !key && (depth == 1 || depth == 2 && self.in_response) && self.key == b"id";
    }

    fn string_piece(&mut self, piece: &[u8]) {
        if self.in_key {
            keep(&mut self.key, piece, WORD_LIMIT);
        } else if self.in_kind {
            keep(&mut self.kind, piece, WORD_LIMIT);
        } else if self.in_id {
            keep(&mut self.id, piece, ResponseKey::LONGEST);
        }
    }

    fn string_end(&mut self, _: bool, _: u32) {
        self.in_kind = false;
        if std::mem::take(&mut self.in_id) {
            self.response = Some(ResponseKey::of(&self.id));
            self.id.clear();
        }
    }

    fn scalar_piece(&mut self, piece: &[u8]) {
        if self.usage_at.is_some() {
            keep(&mut self.number, piece, WORD_LIMIT);
        }
    }

    fn scalar_end(&mut self, depth: u32) {
        let Some(at) = self.usage_at else { return };
        let number = std::str::from_utf8(&self.number).ok().and_then(|s| s.parse().ok()).map(Tokens);
        self.number.clear();
        let Some(number) = number else { return };
        match self.key.as_slice() {
            b"prompt_tokens" | b"input_tokens" if depth == at => self.usage.prompt = Some(number),
            b"completion_tokens" | b"output_tokens" if depth == at => self.usage.output = Some(number),
            b"cache_read_input_tokens" if depth == at => self.usage.cached = Some(number),
            b"cached_tokens" if depth == at + 1 && self.in_details => self.usage.cached = Some(number),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(prompt: u64, cached: u64, output: u64) -> Usage {
        Usage { prompt: Some(Tokens(prompt)), cached: Some(Tokens(cached)), output: Some(Tokens(output)) }
    }

    /// The usage, and the byte after which the first token was seen.
    fn read(format: Format, text: &str, chunk: usize) -> (Usage, Option<usize>) {
        let mut answer = Answer::new(format);
        let mut seen = 0;
        let mut first = None;
        for c in text.as_bytes().chunks(chunk) {
            seen += c.len();
            if answer.feed(c) {
                first.get_or_insert(seen);
            }
        }
        (answer.usage(), first)
    }

    const CHAT: &str = concat!(
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"say \\\"usage\\\": {\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"total_tokens\":12,\"completion_tokens\":3,",
        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n"
    );
    const RESPONSES: &str = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_7\",\"usage\":null}}\n\n",
        "event: response.output_text.delta\r\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\r\n\r\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"usage\":{\"input_tokens\":1}}],",
        "\"usage\":{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":3}}}\n\n"
    );
    const MESSAGES: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":0,",
        "\"cache_read_input_tokens\":4}}}\n\nevent: content_block_delta\n",
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
        "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\n\n"
    );

    #[test]
    fn first_token_is_the_first_generated_one() {
        let at = |text: &str, mark: &str| text.find(mark).map(|i| i + text[i..].find('\n').unwrap() + 1);
        assert_eq!(read(Format::Events, CHAT, 1).1, at(CHAT, "assistant"));
        assert_eq!(read(Format::Events, RESPONSES, 1).1, at(RESPONSES, "\"delta\"").map(|i| i - 1));
        assert_eq!(read(Format::Events, MESSAGES, 1).1, at(MESSAGES, "text_delta"));
    }

    #[test]
    fn the_id_of_a_response_is_known_streamed_or_not() {
        let id = |format, text: &str| {
            let mut answer = Answer::new(format);
            text.as_bytes().chunks(3).for_each(|c| {
                answer.feed(c);
            });
            answer.id()
        };
        assert_eq!(id(Format::Events, RESPONSES), Some(ResponseKey::of(b"resp_7")));
        let whole =
            "{\"output\":[{\"id\":\"msg_1\"}],\"error\":{\"id\":\"e\"},\"id\":\"resp_7\",\"usage\":{\"id\":\"x\"}}";
        assert_eq!(id(Format::Json, whole), Some(ResponseKey::of(b"resp_7")));
        assert_eq!(id(Format::Json, "{\"choices\":[]}"), None);
    }

    #[test]
    fn an_event_that_is_no_json_counts_for_nothing_however_it_is_cut() {
        let mut event = b"data: {\"choices\":[{\"delta\":{\"content\":\"".to_vec();
        event.extend(b"\xc4\xdf\"}}],\"usage\":{\"prompt_tokens\":9}}\n\n");
        for chunk in [1, 7, event.len()] {
            let mut answer = Answer::new(Format::Events);
            assert!(!event.chunks(chunk).any(|c| answer.feed(c)), "{chunk}");
            assert_eq!(answer.usage(), Usage::default(), "{chunk}");
        }
    }

    #[test]
    fn usage_of_an_unstreamed_answer() {
        let text = "{\"choices\":[{\"message\":{\"content\":\"{\\\"usage\\\": 1}\",\"usage\":{\"prompt_tokens\":1}}}],\
            \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":4},\
            \"completion_tokens_details\":null},\"kv\":[{\"prompt_tokens\":77}]}";
        assert_eq!(read(Format::Json, text, 5).0, usage(9, 4, 3));
        let none = "{\"usage\":{\"prompt_tokens\":9,\"prompt_tokens_details\":null}}";
        assert_eq!(read(Format::Json, none, 100).0, Usage { prompt: Some(Tokens(9)), ..Usage::default() });
        assert_eq!(read(Format::Json, "<html>", 2).0, Usage::default());
    }

    proptest! {
        #[test]
        fn usage_of_a_stream_however_it_is_cut(chunk in 1..300_usize) {
            for text in [CHAT, RESPONSES, MESSAGES] {
                prop_assert_eq!(read(Format::Events, text, chunk).0, usage(9, 4, 3));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1..20_usize) {
            for format in [Format::Json, Format::Events] {
                let mut answer = Answer::new(format);
                bytes.chunks(chunk).for_each(|c| { answer.feed(c); });
                let _ = answer.usage();
            }
        }
    }
}
