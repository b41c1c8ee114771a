//! Words that ranks and CTAs tell each other things by. A store to one is on its way until the moment at which it can be
//! seen; whoever looks before sees what was there. Who has looked and found nothing new is woken when there is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::arena::Arena;
use super::super::rng::AddressMap;

/// A warp, and which of its waits.
pub(super) type Waiter = (u32, u32);

#[derive(Debug, Default)]
struct Word {
    coming: VecDeque<(u64, u64)>,
    /// When what is there now came.
    since: u64,
    watchers: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub(super) struct Words(AddressMap<Word>);

fn put(addr: u64, value: u64) {
    // SAFETY: kernels and their host name words of live allocations, at multiples of 8; the host's threads may read them
    // meanwhile, hence the atomic.
    unsafe { AtomicU64::from_ptr(addr as *mut u64).store(value, Ordering::Release) }
}

fn get(addr: u64) -> u64 {
    // SAFETY: as in `put`.
    unsafe { AtomicU64::from_ptr(addr as *mut u64).load(Ordering::Acquire) }
}

impl Words {
    /// What can be seen of a word at `at`, and since when: somebody who looked later may have seen more already, and then
    /// nobody sees less.
    pub fn seen(&mut self, addr: u64, at: u64) -> (u64, u64) {
        let Some(word) = self.0.get_mut(&addr) else {
            return (get(addr), 0);
        };
        while let Some(&(then, value)) = word.coming.front()
            && then <= at
        {
            put(addr, value);
            word.since = then;
            word.coming.pop_front();
        }
        (get(addr), word.since)
    }

    /// A store that will be seen at `at`; who is to be woken then.
    pub fn send(&mut self, addr: u64, value: u64, at: u64) -> Vec<Waiter> {
        let word = self.0.entry(addr).or_default();
        // One after the other: stores to one word keep their order.
        let at = word.coming.back().map_or(at, |(last, _)| at.max(*last));
        word.coming.push_back((at, value));
        std::mem::take(&mut word.watchers)
    }

    /// When a word that was `seen` so has another value, as far as is known: 0, if it has.
    pub fn next(&self, addr: u64, seen: u64) -> Option<u64> {
        if get(addr) != seen {
            return Some(0);
        }
        self.0.get(&addr)?.coming.front().map(|(at, _)| *at)
    }

    pub fn watch(&mut self, addr: u64, who: Waiter) {
        self.0.entry(addr).or_default().watchers.push(who);
    }

    /// All that is on its way arrives, where memory still is: nobody runs any more who could tell the difference.
    pub fn land(&mut self, arena: &Arena) {
        let allocations = arena.lock();
        for (addr, word) in self.0.drain() {
            if let Some((_, value)) = word.coming.back()
                && allocations.find(addr, 8).is_some()
            {
                put(addr, *value);
            }
        }
    }
}
