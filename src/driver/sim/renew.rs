//! Clocks start anew when nothing runs, long before they could run out.

use std::rc::Rc;

use super::arena::clear;
use super::clock::Rows;
use super::machine::{FIRST_CLOCK, Machine};
use super::shadow::HOST;

impl Machine {
    /// With nothing running, starts all clocks anew: whatever kernels wrote counts as written by the host from here on.
    pub fn renew_clocks(&mut self) {
        let ranges: Vec<(u64, u64)> = self.arena.lock().ranges().collect();
        for (start, bytes) in ranges {
            // SAFETY: a live allocation, and no fiber exists.
            unsafe {
                self.layout
                    .shadow_of(start, bytes)
                    .iter_mut()
                    .for_each(|tag| *tag = (*tag).min(HOST));
                clear(self.layout.readers_of(start, bytes));
            }
        }
        let nothing: Rc<Rows> = Rc::default();
        for stream in self.streams.values_mut() {
            stream.rows = nothing.clone();
            stream.queue.iter_mut().for_each(|(_, rows, _)| *rows = nothing.clone());
        }
        self.events
            .values_mut()
            .for_each(|(_, rows, _)| *rows = nothing.clone());
        self.host = nothing;
        self.foreign.forget();
        self.published.clear();
        self.aliases.clear();
        self.free_slots.extend(self.old_slots.drain(..));
        for slot in &mut self.slots {
            slot.clock = FIRST_CLOCK;
            slot.history.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::arena::Arena;
    use super::super::config::SimConfig;
    use super::super::report::Trouble;
    use super::super::shadow::{self, CLOCK_MAX, UNWRITTEN};
    use super::*;

    #[test]
    fn renewed_clocks_forget_writers_and_free_old_slots() {
        let arena = Arc::new(Arena::new(1, false).unwrap());
        let at = arena.allocate(0, 64).unwrap();
        let mut m = Machine::new(&SimConfig::new(1, 0), arena).unwrap();
        let slot = m.take_slot().unwrap();
        m.slots[usize::from(slot)].clock = CLOCK_MAX / 2;
        m.old_slots.push(slot);
        m.write(at, &[1; 16], shadow::tag(slot, 0, 77));
        m.host_write(at + 16, &[2; 4]).unwrap();
        let unknown = m.host_read(at, 64, Some(&Rc::default()));
        assert!(matches!(unknown, Err(Trouble::CopyUnordered { .. })));
        m.renew_clocks();
        // SAFETY: one allocation, and nothing else uses it.
        let shadow = unsafe { m.layout.shadow_of(at, 64) };
        assert_eq!(shadow, [HOST, HOST, UNWRITTEN, UNWRITTEN]);
        let data = m.host_read(at, 64, Some(&Rc::default())).unwrap();
        assert_eq!((data[0], data[16], data[20], data[63]), (1, 2, 0xff, 0xff));
        assert_eq!(m.take_slot(), Some(slot));
        assert_eq!(m.slots[usize::from(slot)].clock, FIRST_CLOCK);
    }
}
