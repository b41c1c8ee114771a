//! What Hopper's cases must give, by the words of `docs/machine.md`, "Hopper".

use half::{bf16, f16};
use tileweave::DType;
use tileweave::driver::TensorMap;

use crate::common::Rng;
use crate::expected::{THREADS, each, each_few, random};
use crate::run::{Case, Setup};

/// u32 words of a box's row of 128 bytes.
const ROW: usize = 32;

pub fn clusters(case: &Case) {
    for (grid, cluster) in [(3, 1), (4, 2)] {
        let want: Vec<u32> = (0..grid)
            .flat_map(|block| each_few(move |_| [block % cluster, cluster]))
            .collect();
        let setup = Setup {
            grid,
            cluster,
            words: want.len(),
            ..Setup::default()
        };
        case.run_with(&setup, |out| assert_eq!(out, want, "clusters of {cluster}"));
    }
}

pub fn cluster_barrier(case: &Case) {
    let x = random(20, 4 * THREADS);
    let want: Vec<u32> = (0..4 * THREADS)
        .map(|t| x[((t / THREADS) ^ 1) * THREADS + ((t % THREADS) ^ 3)])
        .collect();
    let setup = Setup {
        grid: 4,
        cluster: 2,
        x: &x,
        words: 8 * THREADS,
        ..Setup::default()
    };
    case.run_with(&setup, |out| assert_eq!(out[512..], want));
}

pub fn named_barriers(case: &Case) {
    let x = random(21, THREADS);
    for chosen in [0, 63, 64, 100] {
        let want = each_few(|t| {
            // The second pair of warps goes there and back and there.
            let seen = x[t ^ 33].wrapping_add(if t < 64 { 1 } else { 3 });
            let among = t / 64 == chosen as usize / 64;
            [seen, u32::from(among), u32::from(!among), 2]
        });
        case.run(1, &x, &[chosen], want.len(), |out| {
            assert_eq!(out, want, "thread {chosen} chosen")
        });
    }
}

pub fn registers(case: &Case) {
    let x = random(22, THREADS);
    case.run(1, &x, &[], THREADS, |out| {
        assert_eq!(out, each(|t| x[t].wrapping_mul(5)))
    });
}

pub fn mbarrier_phases(case: &Case) {
    let x = random(23, THREADS);
    let from = |t: usize| (29 * t + 64) % THREADS;
    let want = each_few(|t| {
        let mut at = t;
        std::array::from_fn::<u32, 5, _>(|_| {
            at = from(at);
            x[at]
        })
    });
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn mbarriers_of_others(case: &Case) {
    let setup = Setup {
        grid: 4,
        cluster: 2,
        words: 4 * THREADS,
        ..Setup::default()
    };
    case.run_with(&setup, |out| assert_eq!(out, [4; 4 * THREADS]));
}

/// A map of a matrix of `rows` rows of `columns` elements, `row_words` u32 words apart, with boxes of `box_rows` rows.
fn matrix(address: u64, dtype: DType, columns: u64, rows: u64, row_words: u64, box_rows: u32) -> TensorMap {
    TensorMap {
        address,
        dtype,
        rank: 2,
        dims: [columns, rows, 0, 0],
        strides: [4 * row_words, 0, 0],
        box_dims: [128 / dtype.size() as u32, box_rows, 0, 0],
    }
}

/// Replaces the upper half of a word of 16-bit elements where only the lower lies inside.
fn inside(word: u32, first_byte: u64, bytes: u64) -> u32 {
    match bytes.saturating_sub(first_byte) {
        0 | 1 => 0,
        2 | 3 => word & 0xffff,
        _ => word,
    }
}

pub fn tma_2d(case: &Case) {
    const PITCH: usize = 100; // words; not all of them inside
    let x = random(24, 20 * PITCH);
    for (dtype, columns, rows) in [(DType::Bf16, 193, 19), (DType::F16, 40, 7), (DType::F32, 97, 20)] {
        let size = dtype.size() as u64;
        let corners = [(0, 0), (64, 3), (192, 8), (181, 18), (columns, 0), (0, 1000)];
        for (column, row) in corners {
            let word = |r: u64, w: u64| {
                let (at, first) = (row + r, column * size + 4 * w);
                let index = at as usize * PITCH + first as usize / 4;
                // An odd first column of 16-bit elements would fall between words: none is used but 181, below.
                let pair = |i: usize| x.get(i).copied().unwrap_or(0);
                let value = match first % 4 {
                    0 => pair(index),
                    _ => pair(index) >> 16 | pair(index + 1) << 16,
                };
                if at < rows {
                    inside(value, first, columns * size)
                } else {
                    0
                }
            };
            let want: Vec<u32> = (0..16)
                .flat_map(|r| (0..ROW as u64).map(move |w| (r, w)))
                .map(|(r, w)| word(r, w))
                .collect();
            let setup = Setup {
                x: &x,
                words: want.len(),
                prepare: &|p, encode| {
                    p.map_x = encode(matrix(p.x, dtype, columns, rows, PITCH as u64, 16));
                    (p.m, p.n) = (column as u32, row as u32);
                },
                ..Setup::default()
            };
            case.run_with(&setup, |out| {
                assert_eq!(
                    out, want,
                    "{rows} x {columns} of {dtype}, the box at row {row}, column {column}"
                );
            });
        }
    }
}

pub fn tma_4d(case: &Case) {
    let dims = [128u64, 6, 3, 4];
    let strides = [272u64, 6 * 272, 3 * 6 * 272 + 64]; // bytes
    let x = random(25, (4 * strides[2]) as usize / 4);
    for at in [
        [0u32, 0, 0, 0],
        [64, 1, 1, 2],
        [0, 4, 2, 3],
        [96, 0, 2, 1],
        [0, 0, 5, 0],
    ] {
        // Rows in the order of the second, third and fourth dimension: 4 x 2 x 2.
        let want: Vec<u32> = (0..16u64)
            .flat_map(|row| {
                let x = &x;
                (0..ROW as u64).map(move |w| {
                    let outer = [row % 4, row / 4 % 2, row / 8];
                    let index: Vec<u64> = (0..3).map(|i| u64::from(at[i + 1]) + outer[i]).collect();
                    let first = u64::from(at[0]) * 2 + 4 * w;
                    if first >= 2 * dims[0] || (0..3).any(|i| index[i] >= dims[i + 1]) {
                        return 0;
                    }
                    let byte: u64 = (0..3).map(|i| index[i] * strides[i]).sum();
                    x[(byte + first) as usize / 4]
                })
            })
            .collect();
        let setup = Setup {
            x: &x,
            weight: &at,
            words: want.len(),
            prepare: &|p, encode| {
                p.map_gathered = encode(TensorMap {
                    address: p.x,
                    dtype: DType::F16,
                    rank: 4,
                    dims,
                    strides,
                    box_dims: [64, 4, 2, 2],
                });
            },
            ..Setup::default()
        };
        case.run_with(&setup, |out| assert_eq!(out, want, "the box at {at:?}"));
    }
}

pub fn multicast(case: &Case) {
    let x = random(26, 24 * ROW);
    let mut want = x[..16 * ROW].repeat(2);
    want.extend(&x[16 * ROW..]);
    let setup = Setup {
        grid: 2,
        cluster: 2,
        x: &x,
        words: want.len(),
        prepare: &|p, encode| p.map_x = encode(matrix(p.x, DType::Bf16, 64, 24, ROW as u64, 8)),
        ..Setup::default()
    };
    case.run_with(&setup, |out| assert_eq!(out, want));
}

pub fn tma_store(case: &Case) {
    const PITCH: usize = 72; // words; 71 and a half inside
    let (columns, rows) = (143u64, 21u64);
    let x = random(27, 16 * ROW);
    for (column, row) in [(0u64, 0u64), (64, 2), (128, 15), (142, 20), (200, 0), (0, 21)] {
        let mut want = vec![0u32; 24 * PITCH];
        for r in 0..16 {
            for e in 0..64u64 {
                if row + r < rows && column + e < columns {
                    let value = x[r as usize * ROW + e as usize / 2] >> (e % 2 * 16) & 0xffff;
                    let to = column + e;
                    want[(row + r) as usize * PITCH + to as usize / 2] |= value << (to % 2 * 16);
                }
            }
        }
        let setup = Setup {
            x: &x,
            words: want.len(),
            prepare: &|p, encode| {
                p.map_out = encode(matrix(p.out, DType::Bf16, columns, rows, PITCH as u64, 16));
                (p.m, p.n) = (column as u32, row as u32);
            },
            ..Setup::default()
        };
        case.run_with(&setup, |out| {
            assert_eq!(out, want, "the box at row {row}, column {column}")
        });
    }
}

pub fn bulk_copy(case: &Case) {
    let x = random(28, 1024);
    let mut want = vec![0; 2048 + 512 + 260];
    for at in [0, 2048] {
        want[at..at + 512].copy_from_slice(&x[..512]);
    }
    for at in [1024, 2048 + 512] {
        want[at..at + 260].copy_from_slice(&x[512..512 + 260]);
    }
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn generic_then_tma(case: &Case) {
    let x = random(29, 4 * THREADS);
    let want = each_few(|t| std::array::from_fn::<u32, 4, _>(|i| x[4 * (t ^ 9) + i]));
    let setup = Setup {
        x: &x,
        words: 1024 + want.len(),
        prepare: &|p, encode| p.map_gathered = encode(matrix(p.out, DType::F32, 32, 16, ROW as u64, 16)),
        ..Setup::default()
    };
    case.run_with(&setup, |out| assert_eq!(out[1024..], want));
}

pub fn matrices_back(case: &Case) {
    let x = random(30, 4 * THREADS);
    // Row j of matrix i is what lanes 4 j .. hold in register i, at the address that lane 8 i + j gave.
    let want = each_few(|t| {
        let (warp, lane) = (t / 32 * 32, (t ^ 5) % 32);
        std::array::from_fn::<u32, 4, _>(|e| x[4 * (warp + lane % 8 * 4 + e) + lane / 8])
    });
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn shared_b64(case: &Case) {
    let x = random(31, 4 * THREADS);
    let want = each_few(|t| std::array::from_fn::<u32, 4, _>(|i| x[4 * (t ^ 1) + i]));
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

/// Integers of up to 5 bits, whose products sum up to less than 2^24 with what is added: no order of adding rounds.
fn wgmma(case: &Case, bits: fn(f32) -> u16) {
    let mut rng = Rng(32);
    for n in [64usize, 128, 256] {
        let mut small = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.below(33) as f32 - 16.0).collect() };
        let (a, b) = (small(64 * 64), small(n * 64));
        let c: Vec<f32> = (0..64 * n).map(|_| rng.below(1 << 20) as f32 - 524288.0).collect();
        let pack = |values: &[f32]| -> Vec<u32> {
            let pair = |two: &[f32]| u32::from(bits(two[0])) | u32::from(bits(two[1])) << 16;
            values.chunks(2).map(pair).collect()
        };
        let x = [pack(&a), pack(&b)].concat();
        let weight: Vec<u32> = c.iter().map(|v| v.to_bits()).collect();
        for add in [0, 1] {
            let want: Vec<u32> = (0..64 * n)
                .map(|at| {
                    let (row, column) = (at / n * 64, at % n * 64);
                    let product: f32 = (0..64).map(|k| a[row + k] * b[column + k]).sum();
                    (product + add as f32 * c[at]).to_bits()
                })
                .collect();
            let setup = Setup {
                x: &x,
                weight: &weight,
                words: want.len(),
                prepare: &|p, _| (p.m, p.n) = (add, n as u32),
                ..Setup::default()
            };
            case.run_with(&setup, |out| {
                let wrong = (0..want.len()).find(|i| out[*i] != want[*i]);
                assert!(wrong.is_none(), "N = {n}, add {add}: element {wrong:?}");
            });
        }
    }
}

pub fn wgmma_bf16(case: &Case) {
    wgmma(case, |v| bf16::from_f32(v).to_bits());
}

pub fn wgmma_f16(case: &Case) {
    wgmma(case, |v| f16::from_f32(v).to_bits());
}
