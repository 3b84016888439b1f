//! Anthropic's `/v1/messages` answers. As in vLLM, `input_tokens` is the whole prompt, cached tokens included.

use std::fmt::Write;

use super::{Format, Head, Usage, Words};

pub(super) struct Messages {
    pub(super) head: Head,
}

impl Messages {
    fn message(&self, content: &str, stop_reason: &str, usage: &str) -> String {
        let Head { serial, model, .. } = &self.head;
        format!(
            "{{\"id\":\"chatcmpl-{serial:016x}\",\"type\":\"message\",\"role\":\"assistant\",\
             \"content\":[{content}],\"model\":{model},\"stop_reason\":{stop_reason},\"stop_sequence\":null,\
             \"usage\":{usage}}}"
        )
    }
}

fn event(out: &mut String, kind: &str, fields: &str) {
    let comma = if fields.is_empty() { "" } else { "," };
    let _ = write!(out, "event: {kind}\ndata: {{\"type\":\"{kind}\"{comma}{fields}}}\n\n");
}

fn usage_object(usage: Usage) -> String {
    let Usage { prompt, cached, output } = usage;
    format!("{{\"input_tokens\":{prompt},\"output_tokens\":{output},\"cache_read_input_tokens\":{cached}}}")
}

impl Format for Messages {
    fn token(&mut self, out: &mut String, _choice: usize, index: usize, words: Words, _last: bool) {
        if index == 0 {
            let prompt = self.head.prompt_tokens;
            let usage = format!("{{\"input_tokens\":{prompt},\"output_tokens\":0}}");
            let message = self.message("", "null", &usage);
            event(out, "message_start", &format!("\"message\":{message}"));
            let block = "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}";
            event(out, "content_block_start", block);
        }
        let text = words.text(index);
        let delta = format!("\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}");
        event(out, "content_block_delta", &delta);
    }

    fn end(&mut self, out: &mut String, _words: Words, usage: Usage) {
        event(out, "content_block_stop", "\"index\":0");
        let usage = usage_object(usage);
        let delta = format!("\"delta\":{{\"stop_reason\":\"max_tokens\"}},\"usage\":{usage}");
        event(out, "message_delta", &delta);
        event(out, "message_stop", "");
    }

    fn whole(&self, texts: &[String], usage: Usage) -> String {
        let content = format!("{{\"type\":\"text\",\"text\":\"{}\"}}", texts.concat());
        self.message(&content, "\"max_tokens\"", &usage_object(usage))
    }
}
