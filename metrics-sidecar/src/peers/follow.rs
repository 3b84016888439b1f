//! Calls one peer and takes what it tells, for as long as discovery knows it.

use super::Secret;
use super::proto::peers_client::PeersClient;
use super::proto::{Ask, Hello, Refill, RefillWanted, Routed, Tell, View, ask, tell};
use crate::clock::wall;
use crate::discovery::kubernetes::explain::chain;
use crate::exchange::Source;
use crate::hub::Hub;
use crate::memory::{Key, PeersAsked, Shared};
use crate::records::ClockOffset;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
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

/// A peer that has been away for this long is gone, and its Envoys with it.
const GONE: Duration = Duration::from_secs(10);

/// Envoys of one peer that are remembered: it has one, or some while it is upgraded.
const MAX_ENVOYS: usize = 256;

/// How long a peer may take from one part of a refill to the next.
const REFILL: Duration = Duration::from_secs(10);

/// How often a peer is asked about all views, however much is lost.
const ASK_ALL_EVERY: Duration = Duration::from_secs(10);

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
    let mut envoys = Envoys { hub: Arc::clone(&hub), heard: HashSet::new() };
    let mut lost: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let mut follower = Follower::new(&hub, &address, &mut envoys);
        let ended = follower.run(&secret).await.unwrap_or_else(Ended::Failed);
        let was_connected = follower.is_connected;
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
        let now = Instant::now();
        let since = *lost.get_or_insert(now);
        if was_connected {
            lost = Some(now);
        } else if now.duration_since(since) >= GONE {
            envoys.are_gone();
        }
        if began.elapsed() >= LIVED {
            wait = WAITS.0;
        }
        // At random, so that many replicas do not call one in step.
        sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// The Envoys behind a peer. When it is gone, or discovery knows it no more, they are.
struct Envoys {
    hub: Arc<Hub>,
    heard: HashSet<(Arc<Key>, Origin)>,
}

impl Envoys {
    fn heard(&mut self, key: &Arc<Key>, origins: HashSet<Origin>) {
        if self.heard.len() < MAX_ENVOYS {
            self.heard.extend(origins.into_iter().map(|origin| (Arc::clone(key), origin)));
        }
    }

    fn are_gone(&mut self) {
        for (key, origin) in self.heard.drain() {
            self.hub.gone(&key, origin, Source::Peer);
        }
    }
}

impl Drop for Envoys {
    fn drop(&mut self) {
        self.are_gone();
    }
}

struct Follower<'a> {
    hub: &'a Hub,
    address: &'a str,
    envoys: &'a mut Envoys,
    is_connected: bool,
    /// Views that this peer was asked about.
    asked: HashSet<Key>,
    /// Something was lost: it is to be asked about all.
    lost: bool,
    /// When it was last asked about all.
    asked_all: Option<Instant>,
    /// Views of which refills are coming in.
    refills: HashMap<Key, Arc<Shared>>,
    /// Until when more of them must have come.
    refill_due: Option<Instant>,
}

impl<'a> Follower<'a> {
    fn new(hub: &'a Hub, address: &'a str, envoys: &'a mut Envoys) -> Self {
        Self {
            hub,
            address,
            envoys,
            is_connected: false,
            asked: HashSet::new(),
            lost: false,
            asked_all: None,
            refills: HashMap::new(),
            refill_due: None,
        }
    }

    async fn run(&mut self, secret: &Secret) -> Result<Ended, String> {
        // Its records are about endpoints; those of which no table has told would be lost.
        let mut tables = self.hub.tables.clone();
        tables.wait_for(Option::is_some).await.map_err(|_| "this sidecar ends".to_owned())?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        let endpoint = endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PING).keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        let (asks, up) = mpsc::channel(ASKS);
        let hello = Hello { sidecar: self.hub.own.0, marks: self.hub.peers.marks() };
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
        self.is_connected = true;
        self.hub.peer_metrics.connected.inc();
        tracing::info!(peer = self.address, sidecar = peer.0, lost = welcome.lost, "peer followed");
        self.hub.peers.heard(self.address, peer, welcome.next, 0);
        let mut views = self.hub.memories.changes();
        self.note_lost(welcome.lost);
        self.ask(&asks).await?;
        loop {
            let later = Instant::now() + ASK_ALL_EVERY;
            // Whether there may be something to ask: not after each of thousands of records.
            let may_ask = tokio::select! {
                message = down.message() => match message.map_err(|status| said(&status))?.map(|tell| tell.kind) {
                    Some(Some(tell::Kind::Routed(routed))) => {
                        self.take(&routed, peer);
                        self.note_lost(routed.lost);
                        self.lost
                    }
                    Some(Some(tell::Kind::Refill(refill))) => {
                        self.refill(&refill);
                        false
                    }
                    // A second welcome or a kind of a later version: nothing that this version has to act on.
                    Some(_) => false,
                    None => return Err("closed by the peer".to_owned()),
                },
                changed = views.changed() => {
                    changed.map_err(|_| "this sidecar ends".to_owned())?;
                    true
                }
                () = sleep_until(later), if self.lost => true,
                () = sleep_until(self.refill_due.unwrap_or(later)), if self.refill_due.is_some() => {
                    return Err(format!("no refill within {} s", REFILL.as_secs()));
                }
            };
            if may_ask {
                self.ask(&asks).await?;
            }
        }
    }

    /// Asks about views that no peer has told of yet; after a loss, and not too often, about all.
    async fn ask(&mut self, asks: &mpsc::Sender<Ask>) -> Result<(), String> {
        let views = self.hub.memories.all();
        // One that is gone and comes back is a new one.
        self.asked.retain(|key| views.iter().any(|(known, ..)| known == key));
        let all = self.lost && self.asked_all.is_none_or(|at| at.elapsed() >= ASK_ALL_EVERY);
        let mut busy = false;
        for (key, shared, _) in views {
            {
                let mut memory = shared.lock();
                let is_wanted = match memory.peers_asked {
                    PeersAsked::Now => false,
                    PeersAsked::No => all || !self.asked.contains(&key),
                    PeersAsked::Done => all,
                };
                busy |= memory.peers_asked == PeersAsked::Now;
                if !is_wanted {
                    continue;
                }
                memory.peers_asked = PeersAsked::Now;
            }
            self.asked.insert(key.clone());
            let view = View { plugin: key.0.clone(), fingerprint: key.1 };
            self.refills.insert(key, shared);
            self.refill_due = Some(Instant::now() + REFILL);
            say(asks, ask::Kind::RefillWanted(RefillWanted { view: Some(view) })).await?;
        }
        if all {
            self.asked_all = Some(Instant::now());
            // What another peer is being asked about is asked again of this one, which alone has what was lost.
            self.lost = busy;
        }
        Ok(())
    }

    fn take(&mut self, routed: &Routed, peer: Origin) {
        let clock = ClockOffset::new(Millis(routed.now_ms), wall());
        if let Some(key) = key(routed.view.as_ref()).map(Arc::new) {
            let origins = self.hub.take_routed(&key, clock, &routed.slots);
            self.envoys.heard(&key, origins);
        }
        self.hub.peers.heard(self.address, peer, routed.next, routed.slots.len());
    }

    fn refill(&mut self, refill: &Refill) {
        let Some(key) = key(refill.view.as_ref()) else { return };
        let Some(shared) = self.refills.get(&key) else { return };
        let clock = ClockOffset::new(Millis(refill.now_ms), wall());
        self.hub.take_refill(shared, clock, &refill.slots);
        self.refill_due = Some(Instant::now() + REFILL);
        if !refill.done {
            return;
        }
        let Some(shared) = self.refills.remove(&key) else { return };
        if self.refills.is_empty() {
            self.refill_due = None;
        }
        tracing::debug!(peer = self.address, plugin = key.0, known = refill.known, "peer refill");
        shared.lock().peers_asked = if refill.known { PeersAsked::Done } else { PeersAsked::No };
        if refill.known {
            self.hub.peer_metrics.refills.inc();
            shared.filled_by_peer();
        }
        // Another peer may know it, or have what it lost.
        self.hub.memories.changed();
    }

    fn note_lost(&mut self, lost: u64) {
        self.hub.peer_metrics.lost.inc_by(lost);
        self.lost |= lost > 0;
    }
}

impl Drop for Follower<'_> {
    /// Others may be asked in this one's place.
    fn drop(&mut self) {
        for (_, shared) in self.refills.drain() {
            shared.lock().peers_asked = PeersAsked::No;
            self.hub.memories.changed();
        }
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
