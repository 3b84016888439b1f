//! `/v1/responses` answers. `response.created` and `response.in_progress` are sent before the prompt is computed,
//! so the first byte says nothing about the time to the first token.

use std::fmt::Write;

use super::{Format, Head, Usage, Words, response_id};

pub(super) struct Responses {
    head: Head,
    sequence: u64,
}

impl Responses {
    pub(super) fn new(head: Head) -> Self {
        Self { head, sequence: 0 }
    }

    fn event(&mut self, out: &mut String, kind: &str, fields: &str) {
        let sequence = self.sequence;
        self.sequence += 1;
        let _ = write!(out, "event: {kind}\ndata: {{{fields},\"sequence_number\":{sequence},\"type\":\"{kind}\"}}\n\n");
    }

    fn response(&self, status: &str, output: &str, usage: &str) -> String {
        let Head { serial, model, created, .. } = &self.head;
        let id = response_id(*serial);
        format!(
            "{{\"id\":\"{id}\",\"created_at\":{created},\"incomplete_details\":null,\
             \"instructions\":null,\"metadata\":null,\"model\":{model},\"object\":\"response\",\
             \"output\":[{output}],\"parallel_tool_calls\":true,\"status\":\"{status}\",\"usage\":{usage}}}"
        )
    }

    fn message(&self, status: &str, content: &str) -> String {
        let serial = self.head.serial;
        format!(
            "{{\"id\":\"msg_{serial:016x}\",\"content\":[{content}],\"role\":\"assistant\",\
             \"status\":\"{status}\",\"type\":\"message\"}}"
        )
    }

    fn place(&self) -> String {
        let serial = self.head.serial;
        format!("\"content_index\":0,\"item_id\":\"msg_{serial:016x}\",\"output_index\":0")
    }
}

fn part(text: &str) -> String {
    format!("{{\"annotations\":[],\"text\":\"{text}\",\"type\":\"output_text\",\"logprobs\":null}}")
}

fn usage_object(usage: Usage) -> String {
    let Usage { prompt, cached, output } = usage;
    let total = prompt + output;
    format!(
        "{{\"input_tokens\":{prompt},\"input_tokens_details\":{{\"cached_tokens\":{cached}}},\
         \"output_tokens\":{output},\"output_tokens_details\":{{\"reasoning_tokens\":0}},\"total_tokens\":{total}}}"
    )
}

impl Format for Responses {
    fn begin(&mut self, out: &mut String) {
        let response = format!("\"response\":{}", self.response("in_progress", "", "null"));
        self.event(out, "response.created", &response);
        self.event(out, "response.in_progress", &response);
    }

    fn token(&mut self, out: &mut String, _choice: usize, index: usize, words: Words, _last: bool) {
        if index == 0 {
            let item = self.message("in_progress", "");
            self.event(out, "response.output_item.added", &format!("\"item\":{item},\"output_index\":0"));
            let added = format!("{},\"part\":{}", self.place(), part(""));
            self.event(out, "response.content_part.added", &added);
        }
        let text = words.text(index);
        let delta = format!("{},\"delta\":\"{text}\",\"logprobs\":[]", self.place());
        self.event(out, "response.output_text.delta", &delta);
    }

    fn end(&mut self, out: &mut String, words: Words, usage: Usage) {
        let text = words.join(usage.output);
        let done = format!("{},\"logprobs\":[],\"text\":\"{text}\"", self.place());
        self.event(out, "response.output_text.done", &done);
        let done = format!("{},\"part\":{}", self.place(), part(&text));
        self.event(out, "response.content_part.done", &done);
        let item = self.message("completed", &part(&text));
        self.event(out, "response.output_item.done", &format!("\"item\":{item},\"output_index\":0"));
        let response = self.response("completed", &item, &usage_object(usage));
        self.event(out, "response.completed", &format!("\"response\":{response}"));
    }

    fn whole(&self, texts: &[String], usage: Usage) -> String {
        let item = self.message("completed", &part(&texts.concat()));
        self.response("completed", &item, &usage_object(usage))
    }
}
