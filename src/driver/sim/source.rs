//! Shared memory that bulk copies read. While a copy reads a granule, its shadow names the [`Source`] and not the writer,
//! so that a store over it leaves the fast path: it must be ordered behind the wait that found the bytes read.

use super::shadow::GRANULE;

/// One copy that reads, or has read, a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader {
    /// Number of the bulk copy.
    pub copy: u64,
    /// Who issued it, as a tag: for reports.
    pub issuer: u64,
    /// The issuer's clock, as a tag, once it has waited for the read. Who overwrites the bytes must know of that.
    pub released: Option<u64>,
}

/// The source of one bulk copy, or of several with the same bytes.
#[derive(Debug)]
pub(super) struct Source {
    /// From 1; the clock in the shadow's tag.
    pub id: u32,
    start: u32,
    /// What the shadow said before, by granule; 0 where the copies leave a granule out.
    tags: Vec<u64>,
    pub readers: Vec<Reader>,
    /// Granules whose shadow still names it.
    live: u32,
}

/// The sources of a CTA's shared memory.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
    last: u32,
}

impl Sources {
    pub fn get(&self, id: u32) -> Option<&Source> {
        self.list.iter().find(|s| s.id == id)
    }

    /// What the shadow of `addr` would say without the copies of source `id`.
    pub fn behind(&self, id: u32, addr: u32) -> u64 {
        let granule = |s: &Source| {
            s.tags
                .get((addr - s.start.min(addr)) as usize / GRANULE as usize)
                .copied()
        };
        self.get(id).and_then(granule).unwrap_or(0)
    }

    /// A granule of source `id` is about to get another shadow.
    pub fn drop_granule(&mut self, id: u32) {
        if let Some(at) = self.list.iter().position(|s| s.id == id) {
            self.list[at].live -= 1;
            if self.list[at].live == 0 {
                self.list.swap_remove(at);
            }
        }
    }

    /// A new source from `start`: `tags` as in [`Source`]. Its number goes into the shadow of the granules that it has.
    pub fn add(&mut self, start: u32, tags: Vec<u64>, readers: Vec<Reader>) -> u32 {
        let live = tags.iter().filter(|t| **t != 0).count() as u32;
        self.last += 1;
        if live > 0 {
            self.list.push(Source {
                id: self.last,
                start,
                tags,
                readers,
                live,
            });
        }
        self.last
    }

    /// Bulk copy `copy` has been waited for by its thread.
    pub fn release(&mut self, copy: u64, tag: u64) {
        for reader in self.list.iter_mut().flat_map(|s| &mut s.readers) {
            if reader.copy == copy {
                reader.released = Some(tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_lives_until_its_last_granule_is_overwritten() {
        let mut sources = Sources::default();
        let reader = |copy| Reader {
            copy,
            issuer: 5,
            released: None,
        };
        let id = sources.add(64, vec![100, 0, 300], vec![reader(1), reader(2)]);
        assert_eq!([64, 80, 96, 112].map(|a| sources.behind(id, a)), [100, 0, 300, 0]);
        sources.release(2, 77);
        let released: Vec<_> = sources.get(id).unwrap().readers.iter().map(|r| r.released).collect();
        assert_eq!(released, [None, Some(77)]);
        sources.drop_granule(id);
        assert!(sources.get(id).is_some());
        sources.drop_granule(id);
        assert!(sources.get(id).is_none());
    }
}
