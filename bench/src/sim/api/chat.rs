//! `/v1/chat/completions` answers.

use std::fmt::Write;

use super::{Format, Head, Usage, Words, openai_usage};

pub(super) struct Chat {
    pub(super) head: Head,
    pub(super) include_usage: bool,
}

impl Chat {
    fn chunk(&self, out: &mut String, rest: &str) {
        let Head { serial, model, created, .. } = &self.head;
        let _ = write!(
            out,
            "data: {{\"id\":\"chatcmpl-{serial:016x}\",\"object\":\"chat.completion.chunk\",\
             \"created\":{created},\"model\":{model},\"choices\":[{rest}}}\n\n"
        );
    }
}

impl Format for Chat {
    fn token(&mut self, out: &mut String, choice: usize, index: usize, words: Words, last: bool) {
        if index == 0 {
            let delta = "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null";
            self.chunk(out, &format!("{{\"index\":{choice},{delta}}}],\"prompt_token_ids\":null"));
        }
        let text = words.text(index);
        let finish = if last { "\"length\",\"stop_reason\":null" } else { "null" };
        let delta = format!(
            "{{\"index\":{choice},\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\
             \"finish_reason\":{finish},\"token_ids\":null}}]"
        );
        self.chunk(out, &delta);
    }

    fn end(&mut self, out: &mut String, _words: Words, usage: Usage) {
        if self.include_usage {
            self.chunk(out, &format!("],\"usage\":{}", openai_usage(usage)));
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn whole(&self, texts: &[String], usage: Usage) -> String {
        let Head { serial, model, created, .. } = &self.head;
        let text = texts.concat();
        format!(
            "{{\"id\":\"chatcmpl-{serial:016x}\",\"object\":\"chat.completion\",\"created\":{created},\
             \"model\":{model},\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
             \"content\":\"{text}\",\"refusal\":null,\"annotations\":null,\"audio\":null,\
             \"function_call\":null,\"tool_calls\":[],\"reasoning\":null}},\"logprobs\":null,\
             \"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}}],\"service_tier\":null,\
             \"system_fingerprint\":null,\"usage\":{},\"prompt_logprobs\":null,\"prompt_token_ids\":null,\
             \"kv_transfer_params\":null}}",
            openai_usage(usage)
        )
    }
}
