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

#[derive(Debug)]
pub(super) struct Words {
    told: AddressMap<Word>,
    /// What kernels have written, where memory is not theirs: kernels that compute come behind, and write there.
    own: Option<AddressMap<u64>>,
}

impl Words {
    pub fn new(apart: bool) -> Words {
        Words {
            told: AddressMap::default(),
            own: apart.then(AddressMap::default),
        }
    }

    fn put(&mut self, addr: u64, value: u64) {
        if let Some(own) = &mut self.own {
            own.insert(addr, value);
            return;
        }
        // SAFETY: kernels and their host name words of live allocations, at multiples of 8; the host's threads may read them
        // meanwhile, hence the atomic.
        unsafe { AtomicU64::from_ptr(addr as *mut u64).store(value, Ordering::Release) }
    }

    fn get(&self, addr: u64) -> u64 {
        if let Some(value) = self.own.as_ref().and_then(|own| own.get(&addr)) {
            return *value;
        }
        // SAFETY: as in `put`.
        unsafe { AtomicU64::from_ptr(addr as *mut u64).load(Ordering::Acquire) }
    }

    /// Where `bytes` at `addr` lie in their word: its address, bits below them, and a mask.
    fn part(addr: u64, bytes: usize) -> (u64, u64, u64) {
        (addr / 8 * 8, addr % 8 * 8, u64::MAX >> (64 - 8 * bytes))
    }

    /// At most 8 bytes, which do not cross a multiple of 8.
    pub fn read(&self, addr: u64, bytes: usize) -> u64 {
        let (word, below, mask) = Words::part(addr, bytes);
        self.get(word) >> below & mask
    }

    /// The same, written at once. One thread alone runs kernels, and a host's thread never writes beside a word of theirs.
    pub fn write(&mut self, addr: u64, value: u64, bytes: usize) {
        let (word, below, mask) = Words::part(addr, bytes);
        let other = self.get(word) & !(mask << below);
        self.put(word, other | (value & mask) << below);
    }

    /// Memory is what the host made of it.
    pub fn host_wrote(&mut self, addr: u64, bytes: u64) {
        let Some(own) = &mut self.own else { return };
        let words = addr / 8 * 8..addr + bytes;
        if bytes / 8 < own.len() as u64 {
            for word in words.step_by(8) {
                own.remove(&word);
            }
        } else {
            own.retain(|word, _| !words.contains(word));
        }
    }

    /// What can be seen of a word at `at`, and since when: somebody who looked later may have seen more already, and then
    /// nobody sees less.
    pub fn seen(&mut self, addr: u64, at: u64) -> (u64, u64) {
        let Some(word) = self.told.get_mut(&addr) else {
            return (self.get(addr), 0);
        };
        let mut came = None;
        while let Some(&(then, value)) = word.coming.front()
            && then <= at
        {
            came = Some(value);
            word.since = then;
            word.coming.pop_front();
        }
        let since = word.since;
        if let Some(value) = came {
            self.put(addr, value);
        }
        (self.get(addr), since)
    }

    /// A store that will be seen at `at`; who is to be woken then.
    pub fn send(&mut self, addr: u64, value: u64, at: u64) -> Vec<Waiter> {
        if self.own.is_some() {
            // Until it arrives, what is there now: kernels that compute may store it before.
            self.put(addr, self.get(addr));
        }
        let word = self.told.entry(addr).or_default();
        // One after the other: stores to one word keep their order.
        let at = word.coming.back().map_or(at, |(last, _)| at.max(*last));
        word.coming.push_back((at, value));
        std::mem::take(&mut word.watchers)
    }

    /// When a word that was `seen` so has another value, as far as is known: 0, if it has.
    pub fn next(&self, addr: u64, seen: u64) -> Option<u64> {
        if self.get(addr) != seen {
            return Some(0);
        }
        self.told.get(&addr)?.coming.front().map(|(at, _)| *at)
    }

    pub fn watch(&mut self, addr: u64, who: Waiter) {
        self.told.entry(addr).or_default().watchers.push(who);
    }

    /// All that is on its way arrives, where memory still is: nobody runs any more who could tell the difference.
    pub fn land(&mut self, arena: &Arena) {
        let allocations = arena.lock();
        for (addr, word) in std::mem::take(&mut self.told) {
            if let Some((_, value)) = word.coming.back()
                && allocations.find(addr, 8).is_some()
            {
                self.put(addr, *value);
            }
        }
    }
}
