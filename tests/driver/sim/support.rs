//! A node with a heap on every device, and the launches that the tests share.

use tileweave::Error;
use tileweave::abi::TwParams;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{DevicePtr, Driver, Launch, Place, Stream};

pub const HEAP: usize = 1 << 20;
pub const SIGNALS: u64 = 0;
pub const STAGING: u64 = 64 << 10;
pub const HALF: u64 = 128 << 10;
pub const PACKETS: u64 = 512 << 10;

pub fn place(device: usize) -> Place {
    Place {
        device,
        share: 0,
        shares: 1,
    }
}

pub fn grid(grid: u32, threads: u32, shared: u32) -> Launch {
    Launch {
        grid,
        threads,
        shared,
        cluster: 1,
    }
}

pub fn no_params() -> TwParams {
    // SAFETY: plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// A node, a stream and a mapped heap on each device. Signals are cleared, the rest of a heap is as it came.
pub struct Bench {
    pub node: SimNode,
    pub streams: Vec<Stream>,
    pub heaps: Vec<DevicePtr>,
}

impl Bench {
    pub fn new(config: SimConfig) -> Bench {
        let gpus = config.gpus;
        let node = SimNode::new(config).unwrap();
        let places: Vec<Place> = (0..gpus).map(place).collect();
        let streams: Vec<Stream> = places.iter().map(|p| node.stream_create(*p).unwrap()).collect();
        let heaps = places
            .iter()
            .map(|p| {
                let memory = node.physical_create(*p, HEAP).unwrap();
                node.physical_map(memory, HEAP, &places).unwrap()
            })
            .collect::<Vec<_>>();
        for (heap, stream) in heaps.iter().zip(&streams) {
            node.fill(*heap, 0, STAGING as usize, *stream).unwrap();
            node.fill(*heap + PACKETS, 0, HEAP - PACKETS as usize, *stream).unwrap();
        }
        for stream in &streams {
            node.stream_synchronize(*stream).unwrap();
        }
        Bench { node, streams, heaps }
    }

    pub fn params(&self, rank: usize) -> TwParams {
        let mut p = no_params();
        for (slot, heap) in p.group.heap.iter_mut().zip(&self.heaps) {
            *slot = *heap;
        }
        p.group.rank = rank as u32;
        p.group.world = self.heaps.len() as u32;
        p.group.signals = SIGNALS;
        p.group.staging = STAGING;
        p.group.staging_half = HALF;
        p.group.packets = PACKETS;
        p.group.deadline_ns = 10_000_000_000;
        p
    }

    pub fn alloc(&self, device: usize, bytes: usize) -> DevicePtr {
        self.node.alloc(place(device), bytes).unwrap()
    }

    pub fn read(&self, device: usize, ptr: DevicePtr, bytes: usize) -> Result<Vec<u8>, Error> {
        let mut data = vec![0; bytes];
        self.node.copy_out(&mut data, ptr, self.streams[device])?;
        Ok(data)
    }

    pub fn read_u32(&self, device: usize, ptr: DevicePtr, n: usize) -> Result<Vec<u32>, Error> {
        let data = self.read(device, ptr, 4 * n)?;
        Ok(data
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
            .collect())
    }

    /// `selftest_message` on every device; what each thread of each rank added up in each round.
    pub fn messages(&self, bytes: u32, rounds: u32) -> Result<Vec<Vec<u32>>, Error> {
        let outs: Vec<DevicePtr> = (0..self.heaps.len())
            .map(|d| self.alloc(d, rounds as usize * 128 * 4))
            .collect();
        for (d, out) in outs.iter().enumerate() {
            let mut p = self.params(d);
            (p.n, p.k, p.out) = (bytes, rounds, *out);
            self.node
                .launch("selftest_message", grid(1, 128, 0), &p, self.streams[d])?;
        }
        outs.iter()
            .enumerate()
            .map(|(d, out)| self.read_u32(d, *out, rounds as usize * 128))
            .collect()
    }

    /// What `messages` must give.
    pub fn expected_messages(&self, bytes: u32, rounds: u32) -> Vec<Vec<u32>> {
        let ranks = self.heaps.len() as u32;
        let of = |rank: u32| {
            let from = (rank + ranks - 1) % ranks;
            (0..rounds)
                .flat_map(|r| (0..128u32).map(move |t| (r, t)))
                .map(|(r, t)| {
                    let vectors = (bytes / 16).saturating_sub(127 - t).div_ceil(128);
                    vectors * 4 * ((16 * from + r + 1) % 256)
                })
                .collect()
        };
        (0..ranks).map(of).collect()
    }
}

/// The report of a simulator error.
pub fn report<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Simulator { report }) => report,
        other => panic!("expected a report of the simulator, got {other:?}"),
    }
}
