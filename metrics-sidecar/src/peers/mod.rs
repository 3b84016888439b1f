//! The sidecars of the gateway's other replicas: what their Envoys route is known here a moment later, and the other
//! way round, so that all replicas have one view.
//!
//! Each sidecar follows each other one; a pair has two streams, one for each direction. A follower tells up to where it
//! has heard this peer before, so a stream that breaks and comes back loses and repeats nothing that is still kept.
//! What a sidecar's own Envoys route is told, not what it hears, so nothing goes in circles. A view that is new here is
//! filled with all that one peer knows. When a peer is gone, so are the requests of its Envoys.
//!
//! | module | job |
//! | --- | --- |
//! | [`follow`] | calls one peer, takes what it tells |
//! | [`serve`] | tells those who call |

pub mod follow;
pub mod serve;

use crate::discovery::Discovered;
use crate::hub::Hub;
use crate::shutdown::Shutdown;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::AbortHandle;
use warmpath_core::units::{Millis, Origin};

/// Messages of `proto/peers.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("warmpath.peers.v1");
}

/// Peers whose mark is remembered: more than there ever are at once, so that those that were away for long make room.
const MAX_MARKS: usize = 256;

/// What all peers must know.
#[derive(Clone)]
pub struct Secret(Option<String>);

impl Secret {
    /// A secret, or none.
    #[must_use]
    pub fn new(secret: Option<String>) -> Self {
        Self(secret)
    }

    /// Whether this is it. Compared by digest, which takes the same time however much of it is right.
    #[must_use]
    pub fn is(&self, said: Option<&str>) -> bool {
        match (&self.0, said) {
            (None, _) => true,
            (Some(secret), Some(said)) => Sha256::digest(secret) == Sha256::digest(said),
            (Some(_), None) => false,
        }
    }

    /// It.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Secret(…)" } else { "Secret(none)" })
    }
}

/// How a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `ip:port`
    pub address: String,
    /// Who it is, while it is followed.
    pub sidecar: Option<Origin>,
    /// Since it is followed, or is not.
    pub since: Millis,
    /// Why it is not.
    pub error: Option<String>,
    /// Slots that came.
    pub slots: u64,
}

/// All peers.
#[derive(Debug, Default)]
pub struct Peers {
    state: Mutex<State>,
    following: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<String, Peer>,
    /// Up to where each was heard, by who it is: its address may be another one tomorrow. The number orders them by age.
    marks: HashMap<Origin, (u64, u64)>,
    marked: u64,
}

impl Peers {
    /// Each of them, by address.
    #[must_use]
    pub fn all(&self) -> Vec<Peer> {
        self.lock().peers.values().cloned().collect()
    }

    /// How many follow this one.
    #[must_use]
    pub fn following(&self) -> usize {
        self.following.load(Ordering::Relaxed)
    }

    fn found(&self, address: &str, now: Millis) {
        let peer = Peer { address: address.to_owned(), sidecar: None, since: now, error: None, slots: 0 };
        self.lock().peers.insert(address.to_owned(), peer);
    }

    fn gone(&self, address: &str) {
        self.lock().peers.remove(address);
    }

    /// A peer has said who it is. False when it is followed already, at another address.
    fn connected(&self, address: &str, sidecar: Origin, now: Millis) -> bool {
        let mut state = self.lock();
        if state.peers.values().any(|peer| peer.sidecar == Some(sidecar)) {
            return false;
        }
        if let Some(peer) = state.peers.get_mut(address) {
            (peer.sidecar, peer.since, peer.error) = (Some(sidecar), now, None);
        }
        true
    }

    /// It is not followed any more. True when this is news.
    fn failed(&self, address: &str, error: &str, now: Millis) -> bool {
        let mut state = self.lock();
        let Some(peer) = state.peers.get_mut(address) else { return false };
        if peer.sidecar.take().is_some() || peer.error.is_none() {
            peer.since = now;
        }
        peer.error.replace(error.to_owned()).as_deref() != Some(error)
    }

    fn heard(&self, address: &str, sidecar: Origin, next: u64, slots: usize) {
        let mut state = self.lock();
        if let Some(peer) = state.peers.get_mut(address) {
            peer.slots += slots as u64;
        }
        state.marked += 1;
        let marked = state.marked;
        state.marks.insert(sidecar, (next, marked));
        if state.marks.len() > MAX_MARKS
            && let Some(oldest) = state.marks.iter().min_by_key(|(_, (_, marked))| *marked).map(|(who, _)| *who)
        {
            state.marks.remove(&oldest);
        }
    }

    fn marks(&self) -> Vec<proto::Mark> {
        let state = self.lock();
        state.marks.iter().map(|(who, (next, _))| proto::Mark { sidecar: who.0, next: *next }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows each peer that discovery tells of, until shutdown. Also those that are not ready or are draining: their
/// Envoys route for as long as they live.
pub async fn run(hub: Arc<Hub>, mut discovered: Discovered, secret: Secret, shutdown: Shutdown) {
    let mut tasks: BTreeMap<String, Task> = BTreeMap::new();
    let mut ended = std::pin::pin!(shutdown.wait());
    loop {
        tokio::select! {
            () = &mut ended => return,
            changed = discovered.changed() => if changed.is_err() { return },
        }
        let Some(snapshot) = discovered.borrow_and_update().clone() else { continue };
        let wanted: BTreeSet<&str> = snapshot.iter().map(|e| e.address.as_str()).collect();
        tasks.retain(|address, _| {
            let stays = wanted.contains(address.as_str());
            if !stays {
                tracing::info!(peer = %address, "peer gone from discovery");
                hub.peers.gone(address);
            }
            stays
        });
        for address in wanted {
            if !tasks.contains_key(address) {
                tracing::debug!(peer = %address, "peer found");
                hub.peers.found(address, hub.clock.now());
                let task = follow::run(Arc::clone(&hub), address.to_owned(), secret.clone());
                tasks.insert(address.to_owned(), Task(tokio::spawn(task).abort_handle()));
            }
        }
    }
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_is_the_secret() {
        let secret = Secret::new(Some("s".to_owned()));
        assert!(secret.is(Some("s")) && !secret.is(Some("t")) && !secret.is(None));
        assert!(Secret::new(None).is(None) && Secret::new(None).is(Some("t")));
    }

    #[test]
    fn one_peer_at_two_addresses_is_followed_once() {
        let peers = Peers::default();
        peers.found("a:1", Millis(1));
        peers.found("b:1", Millis(1));
        assert!(peers.connected("a:1", Origin(7), Millis(2)));
        assert!(!peers.connected("b:1", Origin(7), Millis(2)));
        assert!(peers.failed("a:1", "closed", Millis(3)));
        assert!(peers.connected("b:1", Origin(7), Millis(4)));
    }

    #[test]
    fn a_failure_that_goes_on_is_news_once_and_keeps_its_beginning() {
        let peers = Peers::default();
        peers.found("a:1", Millis(1));
        assert!(peers.failed("a:1", "refused", Millis(2)));
        assert!(!peers.failed("a:1", "refused", Millis(9)));
        let peer = peers.all().remove(0);
        assert_eq!((peer.since, peer.error.as_deref()), (Millis(2), Some("refused")));
        assert!(peers.failed("a:1", "reset", Millis(9)));
    }

    #[test]
    fn marks_are_bounded_and_the_longest_silent_goes() {
        let peers = Peers::default();
        for who in 0..1_000 {
            peers.heard("a:1", Origin(who), 5, 1);
        }
        let marks = peers.marks();
        assert_eq!(marks.len(), MAX_MARKS);
        assert!(marks.iter().all(|mark| mark.sidecar >= 1_000 - MAX_MARKS as u64));
    }
}
