//! Higress' `prefix_cache`: the pod that a conversation went to before; a new one goes to the pod with the fewest
//! requests in flight.
//!
//! Source: alibaba/higress 4e0d691 (2026-04-30), `prefix_cache/lb_policy.go` (`RedisLua`) and `README_EN.md` of
//! `plugins/wasm-go/extensions/ai-load-balancer`.
//!
//! * Each message of a user, with all before it, is a key. The longest run of known keys from the first on names the
//!   pod, if it is healthy; the time to live of these keys (`redisKeyTTL` = 1,800 s) starts anew. There is no guard
//!   against load.
//! * Else the pod with the fewest requests in flight gets it.
//! * The keys after the known ones then name that pod.
//!
//! The published plugin keeps keys and counts in Redis, for all gateways: [`Higress::shared`]. [`Higress::new`] is the
//! same rule with the memory of a plugin without Redis: each worker VM's own.
//!
//! A segment stands for a message. As the first key takes all up to the end of the first user's message, the system's
//! message alone names no pod: the first segment is a key only where it is a whole prompt.

use super::fleet::{Fleet, HEALTH, InFlight, lowest};
use super::{Answered, Asked, Place, Policy, Scrape, Setting};
use crate::replay::cache::IntMap;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Seconds.
const TTL: f64 = 1800.0;

/// See the module's text.
pub struct Higress {
    fleet: Fleet,
    in_flight: InFlight,
    /// Of each memory, by segment: the pod and when the key dies.
    memories: Vec<IntMap<(usize, f64)>>,
    workers: usize,
    believed: u64,
    rng: SmallRng,
}

impl Higress {
    fn with(memories: usize, setting: &Setting) -> Self {
        Self {
            fleet: Fleet::default(),
            in_flight: InFlight::new(memories, setting.pods),
            memories: (0..memories).map(|_| IntMap::default()).collect(),
            workers: setting.workers,
            believed: 0,
            rng: SmallRng::seed_from_u64(setting.seed),
        }
    }

    /// For this setting, with a memory in each VM.
    pub fn new(setting: &Setting) -> Self {
        Self::with(setting.gateways * setting.workers, setting)
    }

    /// For this setting, with one memory for all, as in Redis.
    pub fn shared(setting: &Setting) -> Self {
        Self::with(1, setting)
    }

    fn memory(&self, place: Place) -> usize {
        if self.memories.len() == 1 { 0 } else { place.gateway * self.workers + place.worker }
    }
}

impl Policy for Higress {
    fn choose(&mut self, asked: &Asked<'_>) -> usize {
        let at = self.memory(asked.place);
        let (keys, dies) = (&mut self.memories[at], asked.now + TTL);
        let segments = &asked.prompt.segments;
        let (mut target, mut known, mut tokens, mut believed) = (None, 0, 0, 0);
        for (i, segment) in segments.iter().enumerate() {
            tokens += segment.tokens;
            match keys.get_mut(&segment.id) {
                Some((pod, until)) if *until > asked.now && self.fleet.can_choose(*pod) => {
                    *until = dies;
                    (target, known, believed) = (Some(*pod), i + 1, tokens);
                }
                _ if i == 0 && segments.len() > 1 => {}
                _ => break,
            }
        }
        let counts = self.in_flight.of(at);
        let pod = target.unwrap_or_else(|| lowest(self.fleet.choosable(), &mut self.rng, |p| counts[p]));
        for (i, segment) in segments.iter().enumerate().skip(known) {
            if i > 0 || segments.len() == 1 {
                keys.insert(segment.id, (pod, dies));
            }
        }
        self.believed = u64::from(believed);
        self.in_flight.sent(at, pod);
        pod
    }

    fn answered(&mut self, answer: &Answered) {
        let at = self.memory(answer.place);
        self.in_flight.done(at, answer.pod);
    }

    fn scraped(&mut self, pods: &[Scrape], _now: f64) {
        let memories = &mut self.memories;
        self.fleet.update(pods, |pod| memories.iter_mut().for_each(|m| m.retain(|_, (p, _)| *p != pod)));
    }

    fn scrape_interval(&self) -> f64 {
        HEALTH
    }

    fn believed(&self) -> Option<u64> {
        Some(self.believed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{ask, idle, prompt, setting};
    use super::*;

    #[test]
    fn a_conversation_stays_whatever_the_load_and_a_system_prompt_draws_nobody() {
        let mut rule = Higress::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let first = ask(&mut rule, 0, 0, &prompt(&[(1, 640), (2, 16)], 5), 0.0);
        for n in 1..40 {
            assert_eq!(ask(&mut rule, n, 0, &prompt(&[(1, 640), (2, 16), (n as u32 + 9, 64)], 0), 0.0), first);
            assert_eq!(rule.believed(), Some(656));
        }
        assert_ne!(ask(&mut rule, 50, 0, &prompt(&[(1, 640), (3, 16)], 0), 0.0), first);
        // Where the first message is all, it is a key.
        let alone = ask(&mut rule, 51, 0, &prompt(&[(5, 64)], 0), 0.0);
        assert_eq!(ask(&mut rule, 52, 0, &prompt(&[(5, 64), (6, 64)], 0), 0.0), alone);
    }

    #[test]
    fn each_vm_has_its_memory_and_redis_is_one() {
        let p = prompt(&[(1, 64)], 0);
        for (mut rule, known) in [(Higress::new(&setting(4)), 0), (Higress::shared(&setting(4)), 64)] {
            rule.scraped(&idle(4), 0.0);
            ask(&mut rule, 0, 0, &p, 0.0);
            rule.choose(&Asked { number: 1, place: Place { gateway: 0, worker: 1 }, prompt: &p, now: 0.0 });
            assert_eq!(rule.believed(), Some(known));
        }
    }

    #[test]
    fn a_key_lives_half_an_hour_after_its_last_use() {
        let mut rule = Higress::new(&setting(4));
        rule.scraped(&idle(4), 0.0);
        let p = prompt(&[(1, 64)], 0);
        for (now, known) in [(0.0, 0), (1799.0, 64), (3598.0, 64), (5398.0, 0)] {
            ask(&mut rule, 0, 0, &p, now);
            assert_eq!(rule.believed(), Some(known), "{now}");
        }
    }
}
