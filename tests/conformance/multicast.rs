//! What the cases of multicast must give, by the words of `docs/machine.md`, "Multicast". [sim]: on GPUs they need a team
//! of several, so they run on simulated nodes whatever the others run on.

use half::{bf16, f16};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{DevicePtr, Driver, Place};

use crate::common::deep;
use crate::expected::{THREADS, each_few};
use crate::run::{Case, Setup};

const BYTES: usize = 64 << 10;

/// A node whose devices share a multicast object, its address, and each device's own.
fn team(gpus: usize, seed: u64) -> (SimNode, DevicePtr, Vec<DevicePtr>) {
    let node = SimNode::new(SimConfig {
        multicast: true,
        ..SimConfig::new(gpus, seed)
    })
    .unwrap();
    let place = |device| Place {
        device,
        share: 0,
        shares: 1,
    };
    let places: Vec<Place> = (0..gpus).map(place).collect();
    let object = node.multicast_create(gpus, BYTES).unwrap();
    for place in &places {
        node.multicast_add_device(object, *place).unwrap();
    }
    let own = places.iter().map(|place| {
        let memory = node.physical_create(*place, BYTES).unwrap();
        node.multicast_bind(object, *place, memory, 0, BYTES).unwrap();
        node.physical_map(memory, BYTES, &places).unwrap()
    });
    let own = own.collect();
    (node.multicast_map(object, BYTES, &places).map(|at| (node, at, own))).unwrap()
}

fn run(case: &Case, node: &SimNode, at: DevicePtr, own: DevicePtr, words: usize) -> Vec<u32> {
    let setup = Setup {
        words,
        prepare: &|params, _| (params.x, params.weight) = (at, own),
        ..Setup::default()
    };
    case.run_on(node, &setup)
}

/// Small whole numbers, whose sums are exact in every order.
pub fn switch_sums(case: &Case) {
    for (gpus, seed) in (2..=8).zip(0..).take(3 + 4 * deep()) {
        let (node, at, own) = team(gpus, seed);
        let value = |device: usize, i: usize| ((7 * device + 3 * i) % 61) as f32 - 30.0;
        let sum = |i: usize| (0..gpus).map(|device| value(device, i)).sum::<f32>();
        for (device, ptr) in own.iter().enumerate() {
            let halves = |bits: &dyn Fn(f32) -> u16| -> Vec<u8> {
                (0..8 * THREADS)
                    .flat_map(|i| bits(value(device, i)).to_le_bytes())
                    .collect()
            };
            node.poke(*ptr, &halves(&|x| bf16::from_f32(x).to_bits())).unwrap();
            node.poke(*ptr + 2048, &halves(&|x| f16::from_f32(x).to_bits()))
                .unwrap();
            let words: Vec<u8> = (0..4 * THREADS).flat_map(|i| value(device, i).to_le_bytes()).collect();
            node.poke(*ptr + 4096, &words).unwrap();
        }
        let pair = |i: usize, bits: &dyn Fn(f32) -> u16| u32::from(bits(sum(i))) | u32::from(bits(sum(i + 1))) << 16;
        let want = each_few::<12>(|t| {
            std::array::from_fn(|i| match i / 4 {
                0 => pair(8 * t + 2 * i, &|x| bf16::from_f32(x).to_bits()),
                1 => pair(8 * t + 2 * (i - 4), &|x| f16::from_f32(x).to_bits()),
                _ => sum(4 * t + i - 8).to_bits(),
            })
        });
        assert_eq!(run(case, &node, at, own[0], want.len()), want, "{gpus} devices");
    }
}

pub fn switch_stores(case: &Case) {
    for seed in 0..4 * deep() as u64 {
        let (node, at, own) = team(3, seed);
        let want = each_few(|t| {
            let t = t as u32;
            [7 * t + 1, !t, 0x7fc0_0001, t << 20]
        });
        assert_eq!(run(case, &node, at, own[0], want.len()), want);
        let bytes: Vec<u8> = want.iter().flat_map(|word| word.to_le_bytes()).collect();
        for ptr in own {
            let mut there = vec![0; bytes.len()];
            node.peek(&mut there, ptr).unwrap();
            assert_eq!(there, bytes);
        }
    }
}
