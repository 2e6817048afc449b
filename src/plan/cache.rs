//! Compiled plans by what they were compiled for: each is compiled once, others go on meanwhile, and those used least
//! recently go.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use crate::base::Base;
use crate::error::Result;
use crate::sync::lock;

/// What a cache holds at most. A plan that is being compiled is not evicted, nor is the last one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Number of plans.
    pub plans: usize,
    /// Bytes of what plans hold beyond the model's own weights.
    pub bytes: u64,
}

/// What the plans of one kind may hold beyond the model's weights: as much as those a few times, or this many bytes if
/// that is more.
const COPIES: u64 = 4;
const FEWEST_BYTES: u64 = 256 << 20;

pub(super) fn limit(base: &Base, plans: usize) -> Limit {
    Limit { plans, bytes: base.weight_bytes().saturating_mul(COPIES).max(FEWEST_BYTES) }
}

/// Plans up to a limit. One that is evicted while somebody runs it lives until they are done.
pub(super) struct PlanCache<K, P> {
    limit: Limit,
    /// Bytes that a plan holds.
    size: fn(&P) -> u64,
    plans: Mutex<Plans<K, P>>,
}

struct Plans<K, P> {
    /// Counts the requests.
    now: u64,
    slots: HashMap<K, Slot<P>>,
}

struct Slot<P> {
    used: u64,
    bytes: u64,
    plan: Pending<P>,
}

/// Locked while the plan is compiled: who wants the same one waits here, and who wants another one does not.
type Pending<P> = Arc<Mutex<Option<Arc<P>>>>;

impl<K: Eq + Hash + Clone, P> PlanCache<K, P> {
    pub fn new(limit: Limit, size: fn(&P) -> u64) -> PlanCache<K, P> {
        PlanCache { limit, size, plans: Mutex::new(Plans { now: 0, slots: HashMap::new() }) }
    }

    /// The plan under `key`, compiled if it is not there. A failure is not kept: the next request compiles again.
    pub fn get(&self, key: K, compile: impl FnOnce() -> Result<P>) -> Result<Arc<P>> {
        let pending = self.pending(&key);
        let mut plan = lock(&pending);
        if let Some(plan) = &*plan {
            return Ok(plan.clone());
        }
        let compiled = Arc::new(compile().inspect_err(|_| self.lock().give_up(&key, &pending))?);
        *plan = Some(compiled.clone());
        drop(plan);
        let mut plans = self.lock();
        if let Some(slot) = plans.slots.get_mut(&key).filter(|slot| Arc::ptr_eq(&slot.plan, &pending)) {
            slot.bytes = (self.size)(&compiled);
        }
        drop(pending);
        plans.evict(self.limit);
        Ok(compiled)
    }

    fn lock(&self) -> MutexGuard<'_, Plans<K, P>> {
        lock(&self.plans)
    }

    fn pending(&self, key: &K) -> Pending<P> {
        let mut plans = self.lock();
        plans.now = plans.now.saturating_add(1);
        let now = plans.now;
        let slot = plans.slots.entry(key.clone()).or_insert_with(|| Slot { used: now, bytes: 0, plan: Arc::default() });
        slot.used = now;
        slot.plan.clone()
    }

    /// Keeps the plans whose key is accepted, and those that somebody else uses.
    pub fn retain(&self, accept: impl Fn(&K) -> bool) {
        let in_use = |slot: &Slot<P>| match slot.plan.try_lock() {
            Ok(plan) => plan.as_ref().is_none_or(|plan| Arc::strong_count(plan) > 1),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        };
        self.lock().slots.retain(|key, slot| accept(key) || in_use(slot));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }
}

impl<K: Eq + Hash + Clone, P> Plans<K, P> {
    /// Lets those go that were used least recently, until the others are within the limit.
    fn evict(&mut self, limit: Limit) {
        let idle = |slot: &Slot<P>| Arc::strong_count(&slot.plan) == 1;
        while self.slots.len() > 1 && (self.slots.len() > limit.plans || self.bytes() > limit.bytes) {
            let oldest = self.slots.iter().filter(|(_, slot)| idle(slot)).min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            self.slots.remove(&oldest);
        }
    }

    fn bytes(&self) -> u64 {
        self.slots.values().map(|slot| slot.bytes).sum()
    }

    /// A plan that could not be compiled leaves nothing, unless others wait to try it themselves.
    fn give_up(&mut self, key: &K, pending: &Pending<P>) {
        // One is the map's, one the caller's.
        if Arc::strong_count(pending) == 2 && self.slots.get(key).is_some_and(|slot| Arc::ptr_eq(&slot.plan, pending)) {
            self.slots.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    fn cache<P>(plans: usize) -> PlanCache<u32, P> {
        PlanCache::new(Limit { plans, bytes: u64::MAX }, |_| 0)
    }

    #[test]
    fn others_are_given_out_while_one_is_compiled() {
        let cache: PlanCache<u32, u32> = cache(4);
        let (begun, has_begun) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel::<()>();
        let compile = move || {
            begun.send(()).unwrap();
            // Compiles until the other one has its plan.
            may_finish.recv_timeout(Duration::from_secs(20)).unwrap();
            Ok(10)
        };
        std::thread::scope(|scope| {
            let cache = &cache;
            let slow = scope.spawn(move || cache.get(1, compile));
            has_begun.recv().unwrap();
            let other = scope.spawn(move || cache.get(2, || Ok(20)));
            assert_eq!(*other.join().unwrap().unwrap(), 20);
            finish.send(()).unwrap();
            assert_eq!(*slow.join().unwrap().unwrap(), 10);
        });
    }

    #[test]
    fn the_same_plan_is_compiled_once_for_many_threads_and_again_after_a_failure() {
        let cache: PlanCache<u32, usize> = cache(4);
        let (compiled, start) = (AtomicUsize::new(0), Barrier::new(8));
        let compile = || {
            std::thread::sleep(Duration::from_millis(20));
            match compiled.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Error::internal("the first one fails")),
                n => Ok(n),
            }
        };
        let plans: Vec<Option<Arc<usize>>> = std::thread::scope(|scope| {
            let get = || {
                start.wait();
                cache.get(1, compile).ok()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(compiled.load(Ordering::SeqCst), 2);
        assert_eq!(plans.iter().filter(|plan| plan.is_none()).count(), 1);
        assert!(plans.iter().flatten().all(|plan| **plan == 1));
    }

    #[test]
    fn the_least_recently_used_go_and_stay_usable_for_whoever_has_them() {
        let cache: PlanCache<u32, u32> = cache(2);
        let first = cache.get(1, || Ok(10)).unwrap();
        cache.get(2, || Ok(20)).unwrap();
        cache.get(1, || panic!("it is there")).unwrap();
        cache.get(3, || Ok(30)).unwrap();
        assert_eq!(cache.len(), 2);
        cache.get(1, || panic!("used later than 2")).unwrap();
        assert_eq!(*cache.get(2, || Ok(21)).unwrap(), 21, "it had gone");
        for key in 10..100 {
            cache.get(key, || Ok(key)).unwrap();
        }
        assert_eq!((cache.len(), *first), (2, 10));
    }

    #[test]
    fn their_bytes_count_and_the_last_one_stays() {
        let cache: PlanCache<u32, u64> = PlanCache::new(Limit { plans: 10, bytes: 100 }, |plan| *plan);
        for (key, bytes, left) in [(1, 40, 1), (2, 40, 2), (3, 40, 2), (4, 20, 3), (5, 500, 1), (6, 10, 1)] {
            cache.get(key, || Ok(bytes)).unwrap();
            assert_eq!(cache.len(), left, "after {key}");
        }
        cache.get(7, || Err(Error::internal("no plan"))).unwrap_err();
        assert_eq!(cache.len(), 1, "a failure leaves nothing");
    }

    #[test]
    fn what_is_not_wanted_any_more_goes_unless_it_is_in_use() {
        let cache: PlanCache<u32, u32> = cache(10);
        let held = cache.get(1, || Ok(10)).unwrap();
        for key in 2..5 {
            cache.get(key, || Ok(key)).unwrap();
        }
        cache.retain(|key| *key == 4);
        assert_eq!(cache.len(), 2);
        drop(held);
        cache.retain(|key| *key == 4);
        assert_eq!(cache.len(), 1);
    }
}
