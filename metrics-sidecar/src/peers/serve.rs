//! Tells those who call what the Envoys of this sidecar route, and all that is known to those who ask.

use super::Secret;
use super::proto::peers_server::Peers as PeersService;
use super::proto::{Ask, Hello, Refill, Routed, Tell, View, Welcome, ask, tell};
use crate::clock::wall;
use crate::exchange::{Read, Source};
use crate::hub::Hub;
use crate::memory::{Key, PeersAsked};
use crate::shutdown::Shutdown;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages that may wait for one follower to read.
const QUEUE: usize = 4;

/// How long a stream may take to say hello.
const HELLO: Duration = Duration::from_secs(5);

/// Followers at once: more replicas than any gateway has.
const MAX_FOLLOWERS: usize = 256;

/// After so many slots of others a follower's mark is moved, though there is nothing to tell: or it would seem to have
/// lost them when the stream breaks.
const MARK_EVERY: u64 = 1_024;

/// How long the Envoys' last messages are waited for when this process ends.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// Bytes in one message of a refill.
const REFILL_BYTES: usize = 256 << 10;

/// The service.
pub struct Serving {
    hub: Arc<Hub>,
    secret: Secret,
    slots: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Serving {
    /// A service for those who know the secret.
    #[must_use]
    pub fn new(hub: Arc<Hub>, secret: Secret, shutdown: Shutdown) -> Self {
        Self { hub, secret, slots: Arc::new(Semaphore::new(MAX_FOLLOWERS)), shutdown }
    }
}

#[tonic::async_trait]
impl PeersService for Serving {
    type FollowStream = ReceiverStream<Result<Tell, Status>>;

    async fn follow(&self, request: Request<Streaming<Ask>>) -> Result<Response<Self::FollowStream>, Status> {
        let refuse = |status: Status| {
            self.hub.peer_metrics.refused.inc();
            Err(status)
        };
        let said = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if !self.secret.is(said.and_then(|value| value.strip_prefix("Bearer "))) {
            return refuse(Status::unauthenticated("--peers-token is not the same on both sides"));
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return refuse(Status::resource_exhausted("too many peers"));
        };
        let (out, down) = mpsc::channel(QUEUE);
        let (hub, shutdown) = (Arc::clone(&self.hub), self.shutdown.clone());
        tokio::spawn(async move {
            let _slot = slot;
            hub.peers.following.fetch_add(1, Ordering::Relaxed);
            let end = Telling { hub: &hub, out: &out }.run(request.into_inner(), shutdown).await;
            hub.peers.following.fetch_sub(1, Ordering::Relaxed);
            if let Err(status) = end {
                hub.peer_metrics.refused.inc();
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(down)))
    }
}

struct Telling<'a> {
    hub: &'a Arc<Hub>,
    out: &'a mpsc::Sender<Result<Tell, Status>>,
}

impl Telling<'_> {
    /// Serves until the follower or this process ends.
    async fn run(&self, mut asks: Streaming<Ask>, shutdown: Shutdown) -> Result<(), Status> {
        let hello = match timeout(HELLO, asks.message()).await {
            Ok(Ok(Some(Ask { kind: Some(ask::Kind::Hello(hello)) }))) => hello,
            Ok(Ok(Some(_))) => return Err(Status::invalid_argument("expected Hello first")),
            Ok(Ok(None) | Err(_)) => return Ok(()),
            Err(_) => return Err(Status::deadline_exceeded("expected Hello within 5 s")),
        };
        let mut ends = self.hub.exchange.ends();
        let (mut next, lost) = self.start(&hello);
        let welcome = Welcome { sidecar: self.hub.own.0, next, lost };
        if self.out.send(Ok(told(tell::Kind::Welcome(welcome)))).await.is_err() {
            return Ok(());
        }
        let mut ended = pin!(shutdown.wait());
        let mut due: VecDeque<Routed> = VecDeque::new();
        let mut refill: VecDeque<Refill> = VecDeque::new();
        let (mut may_have_more, mut marked) = (true, next);
        loop {
            if due.is_empty() && may_have_more {
                ends.mark_unchanged();
                let read = self.hub.exchange.read(next);
                next = read.next;
                may_have_more = !read.entries.is_empty();
                due.extend(routed(read));
                if due.is_empty() && next.saturating_sub(marked) >= MARK_EVERY {
                    due.push_back(Routed { next, ..Routed::default() });
                }
                marked = due.back().map_or(marked, |last| last.next);
                continue;
            }
            tokio::select! {
                () = &mut ended => {
                    // Followers know of what was routed up to the end, and need not guess what became of it.
                    sleep(LAST_WORDS).await;
                    self.tell_rest(due, next).await;
                    return Ok(());
                }
                () = self.out.closed() => return Ok(()),
                changed = ends.changed(), if !may_have_more => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    may_have_more = true;
                }
                // What is being routed now goes before what was.
                permit = self.out.reserve(), if !due.is_empty() || !refill.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let kind = match due.pop_front() {
                        Some(routed) => Some(tell::Kind::Routed(routed)),
                        None => refill.pop_front().map(tell::Kind::Refill),
                    };
                    if let Some(kind) = kind {
                        permit.send(Ok(told(self.stamped(kind))));
                    }
                }
                // One refill after the other, however many are asked for.
                ask = asks.message(), if refill.is_empty() => match ask {
                    Ok(Some(Ask { kind: Some(ask::Kind::RefillWanted(wanted)) })) => {
                        refill.extend(self.refill(wanted.view.unwrap_or_default()).await);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(()),
                },
            }
        }
    }

    /// Where a follower begins, and what it has lost.
    fn start(&self, hello: &Hello) -> (u64, u64) {
        let mark = hello.marks.iter().find(|mark| mark.sidecar == self.hub.own.0);
        self.hub.exchange.resume(mark.map(|mark| mark.next))
    }

    async fn tell_rest(&self, due: VecDeque<Routed>, next: u64) {
        for routed in due.into_iter().chain(routed(self.hub.exchange.read(next))) {
            if self.out.send(Ok(told(self.stamped(tell::Kind::Routed(routed))))).await.is_err() {
                return;
            }
        }
    }

    async fn refill(&self, view: View) -> Vec<Refill> {
        let key: Key = (view.plugin.clone(), view.fingerprint);
        let shared = self.hub.memories.get(&key);
        // One that is only being filled itself knows a part.
        let is_whole = shared.as_ref().is_some_and(|shared| shared.lock().peers_asked != PeersAsked::Now);
        let slots = match shared {
            Some(shared) => self.hub.refill(shared).await,
            None => Vec::new(),
        };
        let known = is_whole && !slots.is_empty();
        let mut parts = vec![Refill { view: Some(view.clone()), known, ..Refill::default() }];
        let mut bytes = 0;
        for slot in slots {
            bytes += slot.len();
            if bytes > REFILL_BYTES {
                bytes = slot.len();
                parts.push(Refill { view: Some(view.clone()), known, ..Refill::default() });
            }
            if let Some(part) = parts.last_mut() {
                part.slots.push(slot);
            }
        }
        if let Some(last) = parts.last_mut() {
            last.done = true;
        }
        parts
    }

    /// With the time at which it goes out, and counted.
    fn stamped(&self, mut kind: tell::Kind) -> tell::Kind {
        let slots = match &mut kind {
            tell::Kind::Routed(Routed { now_ms, slots, .. }) | tell::Kind::Refill(Refill { now_ms, slots, .. }) => {
                *now_ms = wall().0;
                slots.len()
            }
            tell::Kind::Welcome(_) => 0,
        };
        self.hub.peer_metrics.sent.inc_by(slots as u64);
        kind
    }
}

/// One message for each run of entries of one view, of Envoys of this sidecar. A stream that breaks goes on after the
/// last of them that came.
fn routed(read: Read) -> Vec<Routed> {
    let mut messages: Vec<(Arc<Key>, Routed)> = Vec::new();
    let first = read.next.saturating_sub(read.entries.len() as u64);
    for (next, entry) in (first + 1..).zip(read.entries).filter(|(_, entry)| entry.source != Source::Peer) {
        match messages.last_mut() {
            Some((key, routed)) if *key == entry.key => {
                routed.slots.push(entry.slot);
                routed.next = next;
            }
            _ => {
                let view = View { plugin: entry.key.0.clone(), fingerprint: entry.key.1 };
                let routed = Routed { view: Some(view), next, slots: vec![entry.slot], ..Routed::default() };
                messages.push((entry.key, routed));
            }
        }
    }
    let mut messages: Vec<Routed> = messages.into_iter().map(|(_, routed)| routed).collect();
    if read.lost > 0 && messages.is_empty() {
        messages.push(Routed { next: read.next, ..Routed::default() });
    }
    if let Some(routed) = messages.first_mut() {
        routed.lost = read.lost;
    }
    messages
}

fn told(kind: tell::Kind) -> Tell {
    Tell { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Entry;
    use bytes::Bytes;
    use warmpath_core::units::Origin;

    fn entry(plugin: &str, source: Source, slot: &'static str) -> Entry {
        Entry { key: Arc::new((plugin.to_owned(), 1)), source, slot: Bytes::from(slot) }
    }

    #[test]
    fn what_peers_routed_is_not_told_and_each_message_is_of_one_view() {
        let own = Source::Envoy(Origin(1));
        let entries = vec![
            entry("p", own, "a"),
            entry("p", Source::Peer, "b"),
            entry("p", own, "c"),
            entry("q", own, "d"),
            entry("q", Source::Peer, "e"),
        ];
        let messages = routed(Read { entries, next: 105, lost: 7 });
        let seen: Vec<_> = messages.iter().map(|m| (m.slots.len(), m.next, m.lost)).collect();
        assert_eq!(seen, [(2, 103, 7), (1, 104, 0)]);
        assert_eq!(messages[1].view.as_ref().unwrap().plugin, "q");
    }

    #[test]
    fn a_loss_is_told_even_with_nothing_after_it() {
        let entries = vec![entry("p", Source::Peer, "b")];
        let messages = routed(Read { entries, next: 9, lost: 3 });
        assert_eq!(messages.iter().map(|m| (m.next, m.lost)).collect::<Vec<_>>(), [(9, 3)]);
        assert!(routed(Read { entries: vec![entry("p", Source::Peer, "b")], next: 9, lost: 0 }).is_empty());
    }
}
