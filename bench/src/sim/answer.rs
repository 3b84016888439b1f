//! Turns engine events into an answer: a stream of server-sent events, or one JSON object.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use hyper::body::Frame;

use super::api::{Format, Usage};
use super::engine::{Event, Ticket};
use super::pod::Pod;

/// An answer that is being generated. Dropping it aborts what has not ended.
pub struct Answer {
    /// Where to note cached tokens.
    pub pod: Arc<Pod>,
    /// Number of the request in the pod's log.
    pub log_number: u64,
    /// The API's format.
    pub format: Box<dyn Format>,
    /// One a prompt.
    pub tickets: Vec<Ticket>,
    /// Tokens that each prompt gets.
    pub output_len: usize,
    /// What is known so far.
    pub usage: Usage,
    /// Stop after the first token and never end.
    pub hang: bool,
}

impl Answer {
    /// Waits for the end and returns the whole answer.
    pub async fn whole(mut self) -> String {
        while let Some((_, event)) = poll_fn(|context| self.poll_event(context)).await {
            self.count(event);
        }
        let texts = self.tickets.iter().map(|ticket| ticket.words().join(self.output_len));
        self.format.whole(&texts.collect::<Vec<_>>(), self.usage)
    }

    /// The answer as server-sent events; all that is ready goes into one frame.
    pub fn stream(mut self) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
        let mut first = String::new();
        self.format.begin(&mut first);
        futures::stream::unfold((self, first, false), |(mut answer, mut out, ended)| async move {
            if ended {
                return None;
            }
            if !out.is_empty() {
                let frame = Frame::data(Bytes::from(std::mem::take(&mut out)));
                return Some((Ok(frame), (answer, out, false)));
            }
            let ended = answer.fill(&mut out).await;
            Some((Ok(Frame::data(Bytes::from(out))), (answer, String::new(), ended)))
        })
    }

    /// Appends what is ready, at least one token, and returns whether that was all.
    async fn fill(&mut self, out: &mut String) -> bool {
        let output_len = self.output_len;
        loop {
            let next = poll_fn(|context| match self.poll_event(context) {
                // Something can be sent now: do not wait for more.
                Poll::Pending if !out.is_empty() => Poll::Ready(Some(None)),
                polled => polled.map(|event| event.map(Some)),
            });
            match next.await {
                Some(None) => return false,
                Some(Some((choice, event))) => {
                    self.count(event);
                    let Event::Tokens { from, count } = event else { continue };
                    if self.hang && from > 0 {
                        pending::<()>().await;
                    }
                    let count = if self.hang { 1 } else { count };
                    let words = self.tickets[choice].words();
                    for index in from..from + count {
                        self.format.token(out, choice, index, words, index + 1 == output_len);
                    }
                    if self.hang {
                        return false;
                    }
                }
                None => {
                    if self.hang {
                        pending::<()>().await;
                    }
                    if let Some(first) = self.tickets.first() {
                        self.format.end(out, first.words(), self.usage);
                    }
                    return true;
                }
            }
        }
    }

    /// The next event of any prompt; `None` when all have ended.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let mut ended = true;
        for (choice, ticket) in self.tickets.iter_mut().enumerate() {
            if ticket.ended() {
                continue;
            }
            ended = false;
            if let Poll::Ready(event) = ticket.poll_event(context) {
                return Poll::Ready(Some((choice, event)));
            }
        }
        if ended { Poll::Ready(None) } else { Poll::Pending }
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::Started { cached } => {
                self.usage.cached += cached;
                let usage = self.usage;
                self.pod.log.update(self.log_number, |seen| {
                    seen.prompt_tokens = Some(usage.prompt);
                    seen.cached_tokens = Some(usage.cached);
                });
            }
            Event::Tokens { count, .. } => self.usage.output += count,
            Event::Done => {}
        }
    }
}
