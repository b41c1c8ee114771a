//! Nodes that have each other's heaps, and the launches that the tests between them share.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tileweave::Error;
use tileweave::abi::TwParams;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{DevicePtr, Driver, Place, Stream};

use crate::support::{HALF, HEAP, PACKETS, SIGNALS, STAGING, grid, no_params, place};

/// One of several nodes: it drives `rank`'s device and has every rank's heap mapped.
pub struct Side {
    pub node: SimNode,
    pub rank: usize,
    /// Its device, as this node counts them.
    pub at: Place,
    pub stream: Stream,
    pub heaps: Vec<DevicePtr>,
}

impl Side {
    /// A node with nothing but its own heap, and what the others import.
    pub fn new(config: SimConfig, rank: usize) -> (Side, OwnedFd) {
        let world = config.gpus;
        let seen = config.visible.clone().unwrap_or_else(|| (0..world).collect());
        let at = place(seen.iter().position(|device| *device == rank).unwrap());
        let node = SimNode::new(config).unwrap();
        let stream = node.stream_create(at).unwrap();
        let memory = node.physical_create(at, HEAP).unwrap();
        let heap = node.physical_map(memory, HEAP, &[at]).unwrap();
        node.fill(heap, 0, HEAP, stream).unwrap();
        node.stream_synchronize(stream).unwrap();
        let fd = node.physical_export(memory).unwrap();
        let mut heaps = vec![0; world];
        heaps[rank] = heap;
        let side = Side {
            node,
            rank,
            at,
            stream,
            heaps,
        };
        (side, fd)
    }

    pub fn import(&mut self, rank: usize, fd: &OwnedFd) {
        // Where it lives the descriptor knows; this node may not see that device.
        let memory = self.node.physical_import(fd.as_fd(), self.at, HEAP).unwrap();
        self.heaps[rank] = self.node.physical_map(memory, HEAP, &[self.at]).unwrap();
    }

    pub fn params(&self) -> TwParams {
        let mut p = no_params();
        p.group.heap[..self.heaps.len()].copy_from_slice(&self.heaps);
        (p.group.rank, p.group.world) = (self.rank as u32, self.heaps.len() as u32);
        (p.group.signals, p.group.staging, p.group.staging_half) = (SIGNALS, STAGING, HALF);
        (p.group.packets, p.group.deadline_ns) = (PACKETS, 60_000_000_000);
        p
    }

    pub fn alloc(&self, bytes: usize) -> DevicePtr {
        self.node.alloc(self.at, bytes).unwrap()
    }

    pub fn read<const N: usize>(&self, ptr: DevicePtr, n: usize) -> Result<Vec<[u8; N]>, Error> {
        let mut data = vec![0; N * n];
        self.node.copy_out(&mut data, ptr, self.stream)?;
        Ok(data.chunks_exact(N).map(|c| c.try_into().unwrap()).collect())
    }

    pub fn read_u32(&self, ptr: DevicePtr, n: usize) -> Result<Vec<u32>, Error> {
        Ok(self.read(ptr, n)?.into_iter().map(u32::from_le_bytes).collect())
    }

    /// Enqueues `selftest_message`; where its sums will be.
    pub fn start_messages(&self, bytes: u32, rounds: u32, deadline: Duration) -> DevicePtr {
        let out = self.alloc(rounds as usize * 128 * 4);
        self.node
            .fill(out, 0xee, rounds as usize * 128 * 4, self.stream)
            .unwrap();
        let mut p = self.params();
        (p.n, p.k, p.out) = (bytes, rounds, out);
        p.group.deadline_ns = deadline.as_nanos() as u64;
        self.node
            .launch("selftest_message", grid(1, 128, 0), &p, self.stream)
            .unwrap();
        out
    }

    /// `selftest_wait` for `value` at `word`: whether it came, and how many nanoseconds that took.
    pub fn wait(&self, word: DevicePtr, value: u32, deadline: Duration) -> DevicePtr {
        let mut p = self.params();
        (p.x, p.k, p.out) = (word, value, self.alloc(16));
        p.group.deadline_ns = deadline.as_nanos() as u64;
        self.node
            .launch("selftest_wait", grid(1, 64, 0), &p, self.stream)
            .unwrap();
        p.out
    }

    pub fn waited(&self, out: DevicePtr) -> (bool, u64) {
        let words: Vec<u64> = self.read(out, 2).unwrap().into_iter().map(u64::from_le_bytes).collect();
        (words[0] != 0, words[1])
    }
}

/// Nodes that have each other's heaps, one for each device.
pub fn sides(config: &SimConfig) -> Vec<Side> {
    let made = (0..config.gpus).map(|rank| {
        let seed = config.seed * 16 + rank as u64;
        Side::new(SimConfig { seed, ..config.clone() }, rank)
    });
    let (mut sides, fds): (Vec<Side>, Vec<OwnedFd>) = made.unzip();
    for side in &mut sides {
        let own = side.rank;
        for (rank, fd) in fds.iter().enumerate().filter(|(rank, _)| *rank != own) {
            side.import(rank, fd);
        }
    }
    sides
}
