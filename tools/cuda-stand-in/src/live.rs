//! What is alive, for tests that look for leaks: no call of CUDA's.

use crate::answer::Out;
use crate::machine::machine;
use crate::stream::reap;

calls! {
    /// Contexts, streams, events, pools, graphs with executable ones, allocations, physical handles, reservations:
    /// eight counts. Streams that were destroyed and still run are streams.
    fn tileweave_stand_in_live(counts: Out<[usize; 8]>) {
        let machine = machine()?;
        let mut tables = machine.lock();
        reap(machine, &mut tables);
        counts.put([
            tables.contexts.len(),
            tables.streams.len() + tables.dying.len(),
            tables.events.len(),
            tables.pools.len(),
            tables.graphs.len() + tables.executables.len(),
            tables.memory.len(),
            tables.named.len(),
            tables.reservations.len(),
        ])
    }
}
