//! `/v1/completions` answers; a batch of prompts gives one choice each.

use std::fmt::Write;

use super::{Format, Head, Usage, Words, openai_usage};

pub(super) struct Completions {
    pub(super) head: Head,
    pub(super) include_usage: bool,
}

impl Completions {
    fn opening(&self) -> String {
        let Head { serial, model, created, .. } = &self.head;
        format!(
            "{{\"id\":\"cmpl-{serial:016x}\",\"object\":\"text_completion\",\"created\":{created},\"model\":{model}"
        )
    }
}

impl Format for Completions {
    fn token(&mut self, out: &mut String, choice: usize, index: usize, words: Words, last: bool) {
        let text = words.text(index);
        let finish = if last { "\"length\"" } else { "null" };
        let _ = write!(
            out,
            "data: {},\"choices\":[{{\"index\":{choice},\"text\":\"{text}\",\"logprobs\":null,\
             \"finish_reason\":{finish},\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}}]}}\n\n",
            self.opening()
        );
    }

    fn end(&mut self, out: &mut String, _words: Words, usage: Usage) {
        if self.include_usage {
            let usage = openai_usage(usage);
            let _ = write!(out, "data: {},\"choices\":[],\"usage\":{usage}}}\n\n", self.opening());
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn whole(&self, texts: &[String], usage: Usage) -> String {
        let mut out = format!("{},\"choices\":[", self.opening());
        for (index, text) in texts.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(
                out,
                "{comma}{{\"index\":{index},\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":\"length\",\
                 \"stop_reason\":null,\"token_ids\":null,\"prompt_logprobs\":null,\"prompt_token_ids\":null}}"
            );
        }
        let _ = write!(
            out,
            "],\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{},\"kv_transfer_params\":null}}",
            openai_usage(usage)
        );
        out
    }
}
