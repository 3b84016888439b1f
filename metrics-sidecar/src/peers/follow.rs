//! Calls one peer and takes what it tells, for as long as discovery knows it.

use super::Secret;
use super::proto::peers_client::PeersClient;
use super::proto::{Ask, Hello, Refill, RefillWanted, Routed, Tell, View, ask, tell};
use crate::clock::wall;
use crate::discovery::kubernetes::explain::chain;
use crate::hub::Hub;
use crate::memory::{Key, PeersAsked, Shared};
use crate::records::ClockOffset;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use warmpath_core::units::{Millis, Origin};

/// How long a connection, and the first word of a peer, may take.
const CONNECT: Duration = Duration::from_secs(2);
const WELCOME: Duration = Duration::from_secs(5);

/// A peer that answers no ping for this long, after as long, is gone.
const PING: Duration = Duration::from_secs(3);

/// The first and the longest wait before another try. Short, because in between nothing is known of what it routes.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// After a stream that lived this long, waits begin anew.
const LIVED: Duration = Duration::from_secs(5);

/// Questions that may wait to be sent.
const ASKS: usize = 32;

enum Ended {
    /// The address is this sidecar's own.
    Own,
    /// It is followed at another address.
    Twice,
    Failed(String),
}

/// Follows the peer at `address`. Ends only when it turns out to be this sidecar.
pub async fn run(hub: Arc<Hub>, address: String, secret: Secret) {
    let mut wait = WAITS.0;
    loop {
        let began = Instant::now();
        let mut follower = Follower { hub: &hub, address: &address, asked: HashSet::new(), refills: HashMap::new() };
        let ended = follower.run(&secret).await.unwrap_or_else(Ended::Failed);
        drop(follower);
        let error = match ended {
            Ended::Own => {
                tracing::debug!(peer = %address, "this is the sidecar itself");
                hub.peers.gone(&address);
                return;
            }
            Ended::Twice => "followed at another address".to_owned(),
            Ended::Failed(error) => {
                hub.peer_metrics.failed.inc();
                error
            }
        };
        if hub.peers.failed(&address, &error, hub.clock.now()) {
            tracing::warn!(peer = %address, error, "peer not followed");
        }
        if began.elapsed() >= LIVED {
            wait = WAITS.0;
        }
        // At random, so that many replicas do not call one in step.
        sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

struct Follower<'a> {
    hub: &'a Hub,
    address: &'a str,
    /// Views that this peer was asked about.
    asked: HashSet<Key>,
    /// Refills that are coming in.
    refills: HashMap<Key, (Arc<Shared>, Vec<Bytes>)>,
}

impl Follower<'_> {
    async fn run(&mut self, secret: &Secret) -> Result<Ended, String> {
        // Its records are about endpoints; those of which no table has told would be lost.
        let mut tables = self.hub.tables.clone();
        tables.wait_for(Option::is_some).await.map_err(|_| "this sidecar ends".to_owned())?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        let endpoint = endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PING).keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        let (asks, up) = mpsc::channel(ASKS);
        let hello = Hello {
            sidecar: self.hub.own.0,
            uptime_ms: self.hub.clock.now().0.saturating_sub(self.hub.clock.started_at().0),
            marks: self.hub.peers.marks(),
        };
        say(&asks, ask::Kind::Hello(hello)).await?;
        let mut request = Request::new(ReceiverStream::new(up));
        if let Some(secret) = secret.get() {
            let value = MetadataValue::try_from(format!("Bearer {secret}"));
            let value = value.map_err(|_| "--peers-token holds characters that a header may not".to_owned())?;
            request.metadata_mut().insert("authorization", value);
        }
        let answer = timeout(WELCOME, PeersClient::new(channel).follow(request)).await;
        let mut down = answer.map_err(|_| "no answer".to_owned())?.map_err(|status| said(&status))?.into_inner();
        let first = timeout(WELCOME, down.message()).await;
        let first = first.map_err(|_| "no welcome".to_owned())?.map_err(|status| said(&status))?;
        let Some(Tell { kind: Some(tell::Kind::Welcome(welcome)) }) = first else {
            return Err("expected a welcome first: is this a warmpath sidecar?".to_owned());
        };
        let peer = Origin(welcome.sidecar);
        if peer == self.hub.own {
            return Ok(Ended::Own);
        }
        if !self.hub.peers.connected(self.address, peer, self.hub.clock.now()) {
            return Ok(Ended::Twice);
        }
        self.hub.peer_metrics.connected.inc();
        tracing::info!(peer = self.address, sidecar = peer.0, lost = welcome.lost, "peer followed");
        self.hub.peers.heard(self.address, peer, welcome.next, 0);
        let mut views = self.hub.memories.changes();
        self.ask(&asks, self.note_lost(welcome.lost)).await?;
        loop {
            tokio::select! {
                message = down.message() => match message.map_err(|status| said(&status))?.map(|tell| tell.kind) {
                    Some(Some(tell::Kind::Routed(routed))) => {
                        self.take(&routed, peer);
                        if self.note_lost(routed.lost) {
                            self.ask(&asks, true).await?;
                        }
                    }
                    Some(Some(tell::Kind::Refill(refill))) => self.refill(refill),
                    // A second welcome or a kind of a later version: nothing that this version has to act on.
                    Some(_) => {}
                    None => return Err("closed by the peer".to_owned()),
                },
                changed = views.changed() => {
                    changed.map_err(|_| "this sidecar ends".to_owned())?;
                    self.ask(&asks, false).await?;
                }
            }
        }
    }

    /// Asks about views that no peer has told of yet; about `all` of them after a loss.
    async fn ask(&mut self, asks: &mpsc::Sender<Ask>, all: bool) -> Result<(), String> {
        for (key, shared, _) in self.hub.memories.all() {
            let is_new = !self.asked.contains(&key);
            let wanted = match shared.lock().peers_asked {
                PeersAsked::Now => false,
                PeersAsked::No => is_new || all,
                PeersAsked::Done => all,
            };
            if !wanted {
                continue;
            }
            shared.lock().peers_asked = PeersAsked::Now;
            self.asked.insert(key.clone());
            let view = View { plugin: key.0.clone(), fingerprint: key.1 };
            self.refills.insert(key, (shared, Vec::new()));
            say(asks, ask::Kind::RefillWanted(RefillWanted { view: Some(view) })).await?;
        }
        Ok(())
    }

    fn take(&self, routed: &Routed, peer: Origin) {
        let clock = ClockOffset::new(Millis(routed.now_ms), wall());
        if let Some(key) = key(routed.view.as_ref()) {
            self.hub.take_routed(&key, clock, &routed.slots);
        }
        self.hub.peers.heard(self.address, peer, routed.next, routed.slots.len());
    }

    fn refill(&mut self, refill: Refill) {
        let Some(key) = key(refill.view.as_ref()) else { return };
        let Some((shared, slots)) = self.refills.get_mut(&key) else { return };
        let clock = ClockOffset::new(Millis(refill.now_ms), wall());
        slots.extend(self.hub.take_refill(shared, clock, &refill.slots));
        if !refill.done {
            return;
        }
        let Some((shared, slots)) = self.refills.remove(&key) else { return };
        tracing::info!(peer = self.address, plugin = key.0, slots = slots.len(), known = refill.known, "peer refill");
        shared.lock().peers_asked = if refill.known { PeersAsked::Done } else { PeersAsked::No };
        if refill.known {
            self.hub.peer_metrics.refills.inc();
            shared.from_peers().send_replace(Arc::new(slots));
        } else {
            // Another peer may know it.
            self.hub.memories.changed();
        }
    }

    /// Others may be asked in this one's place.
    fn give_up_refills(&mut self) {
        for (_, (shared, _)) in self.refills.drain() {
            shared.lock().peers_asked = PeersAsked::No;
            self.hub.memories.changed();
        }
    }

    fn note_lost(&self, lost: u64) -> bool {
        self.hub.peer_metrics.lost.inc_by(lost);
        lost > 0
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.give_up_refills();
    }
}

fn key(view: Option<&View>) -> Option<Key> {
    view.map(|view| (view.plugin.clone(), view.fingerprint))
}

async fn say(asks: &mpsc::Sender<Ask>, kind: ask::Kind) -> Result<(), String> {
    asks.send(Ask { kind: Some(kind) }).await.map_err(|_| "closed by the peer".to_owned())
}

fn said(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}
