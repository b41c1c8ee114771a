//! Stores on their way to a peer's memory.
//!
//! A store to another device waits here until an acquire on that device covers it, the schedule lets it through, its
//! kernel ends, or a thread that knows of it reads the place. They arrive in any order across addresses, and in the
//! order of their issue on one 8-byte word: each store remembers the one before it on its word (two for 16 bytes),
//! and delivering it delivers those first.

use std::rc::Rc;

use super::clock::Snapshot;
use super::rng::{AddressMap, Rng};

/// What kind of store it is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Ordinary data.
    Weak,
    /// A relaxed word or a packet's half.
    Relaxed,
    /// A releasing word.
    Release(Rc<Snapshot>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    index: u32,
    issue: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    pub addr: u64,
    pub bytes: u8,
    pub data: [u8; 16],
    pub kind: Kind,
    /// The writer, as the shadow will name it; no byte marked.
    pub tag: u64,
    pub owner: u16,
    issue: u64,
    before: [Option<Id>; 2],
    position: u32,
}

impl Store {
    fn is_signal(&self) -> bool {
        !matches!(self.kind, Kind::Weak)
    }

    fn words(&self) -> impl Iterator<Item = u64> + use<> {
        (self.addr / 8)..=((self.addr + u64::from(self.bytes) - 1) / 8)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    stores: Vec<Option<Store>>,
    free: Vec<u32>,
    issued: u64,
    /// The newest store on each word.
    newest: AddressMap<Id>,
    /// Indices of all waiting stores: data and signals, for the schedule to pick from.
    waiting: [Vec<u32>; 2],
    /// By the slot of the writing CTA, stores that may still wait.
    by_slot: Vec<Vec<Id>>,
}

impl Pending {
    pub fn add(&mut self, addr: u64, data: &[u8], kind: Kind, tag: u64, owner: u16) {
        let mut bytes = [0; 16];
        bytes[..data.len()].copy_from_slice(data);
        self.issued += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.stores.push(None);
            self.stores.len() as u32 - 1
        });
        let id = Id {
            index,
            issue: self.issued,
        };
        let mut store = Store {
            addr,
            bytes: data.len() as u8,
            data: bytes,
            kind,
            tag,
            owner,
            issue: id.issue,
            before: [None; 2],
            position: 0,
        };
        for (i, word) in store.words().enumerate() {
            store.before[i & 1] = self.newest.insert(word, id);
        }
        let list = &mut self.waiting[usize::from(store.is_signal())];
        store.position = list.len() as u32;
        list.push(index);
        let slot = usize::from(super::shadow::writer(tag).slot);
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, Vec::new());
        }
        self.by_slot[slot].push(id);
        self.stores[index as usize] = Some(store);
    }

    pub fn get(&self, id: Id) -> Option<&Store> {
        self.stores[id.index as usize].as_ref().filter(|s| s.issue == id.issue)
    }

    /// Takes `id` out, and first every store before it on its words, oldest first.
    pub fn take(&mut self, id: Id, mut deliver: impl FnMut(Store)) {
        let mut stack = vec![id];
        while let Some(&top) = stack.last() {
            let Some(store) = self.get(top) else {
                stack.pop();
                continue;
            };
            let mut wait = false;
            for before in store.before.into_iter().flatten() {
                if self.get(before).is_some() {
                    stack.push(before);
                    wait = true;
                }
            }
            if !wait {
                stack.pop();
                if let Some(store) = self.remove(top) {
                    deliver(store);
                }
            }
        }
    }

    fn remove(&mut self, id: Id) -> Option<Store> {
        let store = self.stores[id.index as usize].take_if(|s| s.issue == id.issue)?;
        for word in store.words() {
            if self.newest.get(&word) == Some(&id) {
                self.newest.remove(&word);
            }
        }
        let list = &mut self.waiting[usize::from(store.is_signal())];
        let position = store.position as usize;
        list.swap_remove(position);
        if let Some(moved) = list.get(position)
            && let Some(moved) = self.stores[*moved as usize].as_mut()
        {
            moved.position = position as u32;
        }
        self.free.push(id.index);
        Some(store)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(Vec::is_empty)
    }

    pub fn has_signals(&self) -> bool {
        !self.waiting[1].is_empty()
    }

    /// All waiting stores for which `known` holds: data, then signals in the order of their issue.
    pub fn covered(&self, known: impl Fn(&Store) -> bool) -> Vec<Id> {
        let mut ids = Vec::new();
        for list in &self.waiting {
            let from = ids.len();
            let stores = list.iter().map(|i| (*i, &self.stores[*i as usize]));
            ids.extend(stores.filter_map(|(index, store)| {
                let store = store.as_ref().filter(|s| known(s))?;
                Some(Id {
                    index,
                    issue: store.issue,
                })
            }));
            ids[from..].sort_unstable_by_key(|id| id.issue);
        }
        ids
    }

    /// Any waiting store of data (false) or signal (true).
    pub fn any(&self, signal: bool, rng: &mut Rng) -> Option<Id> {
        let list = &self.waiting[usize::from(signal)];
        let index = *list.get(rng.below(list.len()))?;
        self.stores[index as usize]
            .as_ref()
            .map(|s| Id { index, issue: s.issue })
    }

    /// The oldest waiting store on the word of `addr`.
    pub fn oldest_on(&self, addr: u64) -> Option<Id> {
        let word = addr / 8;
        let mut at = *self.newest.get(&word)?;
        while let Some(store) = self.get(at) {
            let i = store.words().position(|w| w == word)?;
            match store.before[i & 1].filter(|b| self.get(*b).is_some()) {
                Some(before) => at = before,
                None => break,
            }
        }
        Some(at)
    }

    /// The newest waiting store on the words of `bytes` at `addr` for which `known` holds.
    pub fn newest_known(&self, addr: u64, bytes: u64, known: impl Fn(&Store) -> bool) -> Option<Id> {
        if self.newest.is_empty() {
            return None;
        }
        let mut best: Option<Id> = None;
        for word in addr / 8..=(addr + bytes - 1) / 8 {
            let mut at = self.newest.get(&word).copied();
            while let Some(id) = at
                && let Some(store) = self.get(id)
            {
                if known(store) {
                    best = best.filter(|b| b.issue > id.issue).or(Some(id));
                    break;
                }
                let i = store.words().position(|w| w == word).unwrap_or(0);
                at = store.before[i & 1];
            }
        }
        best
    }

    /// The writer of a waiting store of data to some of `bytes` at `addr`.
    pub fn data_on(&self, addr: u64, bytes: u64) -> Option<u64> {
        let overlaps = |s: &Store| s.addr < addr + bytes && addr < s.addr + u64::from(s.bytes);
        let id = self.newest_known(addr, bytes, |s| !s.is_signal() && overlaps(s))?;
        self.get(id).map(|s| s.tag)
    }

    /// The waiting stores of a slot for which `wanted` holds.
    pub fn of_slot(&mut self, slot: u16, wanted: impl Fn(&Store) -> bool) -> Vec<Id> {
        let Some(list) = self.by_slot.get_mut(usize::from(slot)) else {
            return Vec::new();
        };
        let stores = &self.stores;
        let live = |id: &Id| stores[id.index as usize].as_ref().filter(|s| s.issue == id.issue);
        list.retain(|id| live(id).is_some());
        list.iter()
            .filter(|id| live(id).is_some_and(&wanted))
            .copied()
            .collect()
    }
}
