//! What is sent, in which order. A batch is sent with so many requests in flight and waited for; groups come by turns
//! within a round, so that a cluster that gets slower or busier in the middle does so for all of them.

use super::counters::{Counted, Source};
use super::gateway::{Gateway, Model, Outcome};
use super::measure::{Group, Sample, repeatable};
use super::prompts::{Conversation, Writer};
use super::restart::Restart;
use crate::cli::validate::ValidateArgs;
use futures::StreamExt;
use std::io::Write as _;

/// Words of the request that shows whether anything works, and how long a word is.
const PROBE_WORDS: u32 = 400;
/// A pod that fails must not be taken for a gateway that does.
const PROBES: u32 = 10;
/// A later turn's question.
const QUESTION_TOKENS: u32 = 100;
/// Where no pod tells it: vLLM's default.
const BLOCK_SIZE: u32 = 16;
/// Batches of the warm-up, when pods tell whether all have answered, and when not.
const WARM_UPS: (u32, u32) = (5, 2);

/// Plays the workload and keeps what came of it.
#[derive(Debug)]
pub struct Player<'a> {
    args: &'a ValidateArgs,
    gateway: Gateway,
    model: String,
    writer: Writer,
    block_size: u32,
    /// All requests but the probes that succeeded, in the order of their batches.
    pub samples: Vec<Sample>,
    /// What a reader should know of the run.
    pub remarks: Vec<String>,
}

impl<'a> Player<'a> {
    /// A player whose prompts are drawn from `seed`.
    #[must_use]
    pub fn new(args: &'a ValidateArgs, gateway: Gateway, model: &str, seed: u64) -> Self {
        let writer = Writer::new(seed, model, args.api, args.answer_tokens);
        let (samples, remarks) = (Vec::new(), Vec::new());
        Self { args, gateway, model: model.to_owned(), writer, block_size: BLOCK_SIZE, samples, remarks }
    }

    /// Sees whether a request is answered at all, and learns how long a word is.
    ///
    /// # Errors
    /// Why it is not, and what to do.
    pub async fn probe(&mut self, models: &[Model]) -> Result<(), String> {
        let mut last = Outcome::default();
        for _ in 0..PROBES {
            let conversation = self.writer.begin_words(PROBE_WORDS);
            let outcome = self.gateway.ask(&conversation, self.writer.body(&conversation)).await;
            if outcome.failure.is_none() {
                self.writer.learn(PROBE_WORDS, outcome.usage.map_or(0, |usage| usage.prompt_tokens));
                return self.fits(models);
            }
            let final_word = (400..500).contains(&outcome.status) && outcome.status != 429;
            last = outcome.clone();
            if final_word {
                break;
            }
            self.samples.push(Sample { group: Group::WarmUp, part: 0, repeatable: 0, outcome });
        }
        Err(refused(&last, &self.model, models))
    }

    /// Whether the longest conversation fits into the model.
    fn fits(&self, models: &[Model]) -> Result<(), String> {
        let args = self.args;
        let turn = u64::from(QUESTION_TOKENS + args.answer_tokens);
        let longest = u64::from(args.prompt_tokens) + u64::from(args.turns) * turn;
        // Templates add some, and words are not all alike.
        let longest = longest + longest / 50 + 64;
        match models.iter().find(|model| model.id == self.model).and_then(|model| model.max_model_len) {
            Some(most) if most < longest => Err(format!(
                "conversations of up to {longest} tokens do not fit into {} (max_model_len {most}): lower \
                 --prompt-tokens or --turns",
                self.model
            )),
            _ => Ok(()),
        }
    }

    /// Has each pod answer, cold and warm, so that what happens only once (compilation, connections) is over. Returns
    /// the pods' counters after it.
    ///
    /// # Errors
    /// When nothing is answered, or the counters cannot be read.
    pub async fn warm_up(&mut self, source: &Source) -> Result<Counted, String> {
        let (before, missing) = source.read(&self.model).await?;
        self.remarks.extend(missing.into_iter().map(|error| format!("not read: {error}")));
        self.block_size = before.values().map(|pod| pod.block_size).max().filter(|n| *n > 0).unwrap_or(BLOCK_SIZE);
        let batches = if before.is_empty() { WARM_UPS.1 } else { WARM_UPS.0 };
        let mut counted = before.clone();
        for _ in 0..batches {
            let mut prompts = self.begin((self.args.concurrency * 2).max(8));
            for _ in 0..2 {
                self.send(Group::WarmUp, 0, self.args.concurrency, &mut prompts).await;
            }
            if self.samples.iter().all(|sample| sample.outcome.failure.is_some()) {
                let last = self.samples.last().map(|sample| sample.outcome.clone()).unwrap_or_default();
                return Err(refused(&last, &self.model, &[]));
            }
            counted = source.read(&self.model).await?.0;
            if !before.is_empty() && silent(&before, &counted).is_empty() {
                break;
            }
        }
        for pod in silent(&before, &counted) {
            self.remarks.push(format!(
                "pod {pod} computed nothing in the warm-up: does it fail, or is it not behind this gateway?"
            ));
        }
        Ok(counted)
    }

    /// Repeated prompts, conversations and a control group.
    pub async fn standard(&mut self) {
        let args = self.args;
        let (mut prompts, mut sessions) = (self.begin(args.prompts), self.begin(args.sessions));
        self.send(Group::First, 0, args.concurrency, &mut prompts).await;
        self.send(Group::First, 0, args.concurrency, &mut sessions).await;
        let rounds = args.rounds.max(args.turns - 1);
        for round in 0..rounds {
            if round < args.rounds {
                self.send(Group::Repeated, 0, args.concurrency, &mut prompts).await;
            }
            if round + 1 < args.turns {
                sessions.iter_mut().for_each(|session| self.writer.go_on(session, QUESTION_TOKENS));
                self.send(Group::Turns, 0, args.concurrency, &mut sessions).await;
            }
            let share = |round| u64::from(args.controls) * u64::from(round) / u64::from(rounds);
            self.control((share(round + 1) - share(round)) as u32, 0, args.concurrency).await;
        }
    }

    /// More and more requests in flight; each step is a part.
    pub async fn ramp(&mut self) {
        let args = self.args;
        for (part, &in_flight) in args.steps.iter().enumerate() {
            // Enough that so many are in flight most of the time.
            let number = args.prompts.max(in_flight * 2);
            let mut prompts = self.begin(number);
            self.send(Group::First, part, in_flight, &mut prompts).await;
            for _ in 0..args.rounds {
                self.send(Group::Repeated, part, in_flight, &mut prompts).await;
            }
            self.control(number, part, in_flight).await;
        }
    }

    /// Repeated prompts before (part 0), during and right after (1), and some time after (2) the restart of a pod.
    ///
    /// # Errors
    /// When it was not restarted.
    pub async fn restart(&mut self) -> Result<(), String> {
        let args = self.args;
        let mut restart = Restart::new(args.restart_command.as_deref())?;
        let mut prompts = self.begin(args.prompts);
        self.send(Group::First, 0, args.concurrency, &mut prompts).await;
        for _ in 0..args.rounds {
            self.send(Group::Repeated, 0, args.concurrency, &mut prompts).await;
        }
        self.control(args.controls, 0, args.concurrency).await;
        restart.begin();
        let mut rounds = 0;
        while rounds < args.rounds.max(2) || !restart.is_over() {
            self.send_silently(Group::Repeated, 1, args.concurrency, &mut prompts).await;
            // The rounds count from its end on.
            rounds = if restart.is_over() { rounds + 1 } else { 0 };
        }
        self.tell(Group::Repeated, self.samples.iter().filter(|sample| sample.part == 1).count());
        restart.result().await?;
        self.send(Group::Repeated, 2, args.concurrency, &mut prompts).await;
        Ok(())
    }

    fn begin(&mut self, number: u32) -> Vec<Conversation> {
        (0..number).map(|_| self.writer.begin(self.args.prompt_tokens)).collect()
    }

    async fn control(&mut self, number: u32, part: usize, in_flight: u32) {
        let mut prompts = self.begin(number);
        self.send(Group::Control, part, in_flight, &mut prompts).await;
    }

    async fn send(&mut self, group: Group, part: usize, in_flight: u32, conversations: &mut [Conversation]) {
        if !conversations.is_empty() {
            self.send_silently(group, part, in_flight, conversations).await;
            self.tell(group, conversations.len());
        }
    }

    /// Sends one request for each conversation, and waits for all.
    async fn send_silently(&mut self, group: Group, part: usize, in_flight: u32, conversations: &mut [Conversation]) {
        let (gateway, writer) = (&self.gateway, &self.writer);
        let block_size = self.block_size;
        let asked = conversations.iter_mut().map(|conversation| async move {
            let body = writer.body(conversation);
            let outcome = gateway.ask(conversation, body).await;
            let repeatable = conversation.tokens.map_or(0, |tokens| repeatable(tokens, block_size));
            if outcome.failure.is_none() {
                conversation.tokens = outcome.usage.map(|usage| usage.prompt_tokens);
                conversation.answer.clone_from(&outcome.text);
            }
            Sample { group, part, repeatable, outcome }
        });
        let samples: Vec<Sample> = futures::stream::iter(asked).buffer_unordered(in_flight as usize).collect().await;
        self.samples.extend(samples);
    }

    fn tell(&self, group: Group, requests: usize) {
        if !self.args.quiet {
            let failed = self.samples.iter().filter(|sample| sample.outcome.failure.is_some()).count();
            let failed = if failed > 0 { format!(" ({failed} failed so far)") } else { String::new() };
            let total = self.samples.len();
            let _ =
                writeln!(std::io::stderr(), "{:<12} {requests:>5} requests, {total:>6} in all{failed}", group.name());
        }
    }
}

/// Pods whose counters have not moved.
fn silent<'c>(before: &'c Counted, after: &Counted) -> Vec<&'c String> {
    let moved = |pod: &str, queries: f64| after.get(pod).is_none_or(|now| now.queries != queries);
    before.iter().filter(|(pod, then)| !moved(pod, then.queries)).map(|(pod, _)| pod).collect()
}

/// Why nothing can be measured, with what to do.
fn refused(outcome: &Outcome, model: &str, models: &[Model]) -> String {
    let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
    let failure = outcome.failure.as_deref().unwrap_or("no answer");
    let said = outcome.said.as_ref().map(|said| format!(": {said}")).unwrap_or_default();
    let hint = match outcome.status {
        404 if !ids.is_empty() && !ids.contains(&model) => {
            return format!("the gateway serves no model {model:?}; /v1/models lists: {}", ids.join(", "));
        }
        400 | 413 => "; is the prompt too long (--prompt-tokens), or does the model want --api completions?",
        401 | 403 => "; is --api-key right?",
        404 => "; are --model, --path-prefix and --host right?",
        500.. => "; do the pods answer? (docs/troubleshooting.md; warmpath status)",
        _ => "",
    };
    format!("the gateway answers no request for {model:?}: {failure}{said}{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::counters::Counters;
    use super::*;

    fn outcome(status: u16) -> Outcome {
        Outcome { status, failure: Some(format!("status {status}")), ..Outcome::default() }
    }

    fn models(ids: &[&str]) -> Vec<Model> {
        ids.iter().map(|id| Model { id: (*id).to_owned(), max_model_len: None }).collect()
    }

    #[test]
    fn an_unknown_model_is_answered_by_those_there_are() {
        let text = refused(&outcome(404), "x", &models(&["a", "b"]));
        assert_eq!(text, "the gateway serves no model \"x\"; /v1/models lists: a, b");
        // Listed, but not served: it is something else.
        assert!(refused(&outcome(404), "a", &models(&["a"])).contains("--path-prefix"));
        assert!(refused(&outcome(404), "a", &[]).contains("--path-prefix"));
    }

    #[test]
    fn each_status_has_its_hint() {
        for (status, hint) in [(401, "--api-key"), (413, "--prompt-tokens"), (503, "troubleshooting")] {
            assert!(refused(&outcome(status), "m", &[]).contains(hint), "{status}");
        }
    }

    #[test]
    fn a_pod_whose_counters_stand_still_has_got_nothing() {
        let counted = |queries: [f64; 2]| -> Counted {
            let pod = |queries| Counters { queries, ..Counters::default() };
            ["a", "b"].iter().zip(queries).map(|(name, queries)| ((*name).to_owned(), pod(queries))).collect()
        };
        assert_eq!(silent(&counted([1.0, 1.0]), &counted([2.0, 1.0])), ["b"]);
        assert!(silent(&counted([1.0, 1.0]), &Counted::new()).is_empty());
    }
}
