//! What each case must give, by the words of `docs/machine.md`.

use half::{bf16, f16};

use crate::common::Rng;
use crate::run::Case;

pub const THREADS: usize = 128;

pub fn random(seed: u64, words: usize) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..words).map(|_| rng.next() as u32).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// One word for each thread.
pub fn each(f: impl Fn(usize) -> u32) -> Vec<u32> {
    (0..THREADS).map(f).collect()
}

/// Several words for each thread.
pub fn each_few<const N: usize>(f: impl Fn(usize) -> [u32; N]) -> Vec<u32> {
    (0..THREADS).flat_map(f).collect()
}

pub fn identity(case: &Case) {
    let want: Vec<u32> = (0..3)
        .flat_map(|block| each_few(move |t| [t as u32, 128, block, 3, t as u32 % 32, t as u32 / 32]))
        .collect();
    case.run(3, &[], &[], want.len(), |out| assert_eq!(out, want));
}

pub fn shared_base(case: &Case) {
    case.run(1, &[], &[], THREADS, |out| assert_eq!(out, [0; THREADS]));
}

pub fn barrier(case: &Case) {
    let x = random(1, THREADS);
    let want = each(|t| x[(37 * t + 41) % THREADS]);
    case.run(1, &x, &[], THREADS, |out| assert_eq!(out, want));
}

pub fn votes(case: &Case) {
    for chosen in [0, 31, 77, 127] {
        let want = each_few(|_| [1, 0, 1, 0, 1, 0]);
        case.run(1, &[chosen], &[], want.len(), |out| {
            assert_eq!(out, want, "thread {chosen} chosen")
        });
    }
}

pub fn warp(case: &Case) {
    let x = random(2, THREADS);
    let in_warp = |t: usize, lane: usize| x[t / 32 * 32 + lane];
    let want = each_few(|t| {
        let lane = t % 32;
        [
            in_warp(t, lane ^ 1),
            in_warp(t, lane ^ 31),
            in_warp(t, (7 * lane + 3) % 32),
            in_warp(t, lane ^ 17),
        ]
    });
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn shared_widths(case: &Case) {
    let (x, weight) = (random(3, 4 * THREADS), random(4, THREADS));
    let want = each_few(|t| {
        let from = t ^ 1;
        let patched = x[4 * from + 1] & 0xffff_0000 | weight[from] & 0xffff;
        [x[4 * from], patched, x[4 * from + 2], x[4 * from + 3]]
    });
    case.run(1, &x, &weight, want.len(), |out| assert_eq!(out, want));
}

pub fn global_widths(case: &Case) {
    let x = random(5, 4 * THREADS);
    let raw = bytes(&x);
    let mut want = vec![0; 3136];
    for t in 0..THREADS {
        for i in 0..4 {
            want[4 * t + i] = x[4 * t + 3 - i];
        }
        want[1024 + 2 * t] = x[4 * t];
        want[1024 + 2 * t + 1] = x[4 * t + 1];
        want[2048 + t] = u32::from(u16::from_le_bytes([raw[2 * t], raw[2 * t + 1]]));
        want[3072 + t / 2] |= (x[t] & 0xffff) << (t % 2 * 16);
    }
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn async_copy(case: &Case) {
    let (x, weight) = (random(6, 4 * THREADS), random(7, 4 * THREADS));
    let mut want = each_few(|t| {
        let mut piece: Vec<u8> = bytes(&x[4 * t..4 * t + 4]);
        piece[t % 17..].fill(0);
        std::array::from_fn::<u32, 4, _>(|i| u32::from_le_bytes(piece[4 * i..4 * i + 4].try_into().unwrap()))
    });
    want.extend(each_few(|t| {
        std::array::from_fn::<u32, 4, _>(|i| weight[4 * (t ^ 64) + i])
    }));
    case.run(1, &x, &weight, want.len(), |out| assert_eq!(out, want));
}

pub fn matrices(case: &Case) {
    let x = random(8, 4 * THREADS);
    // Lane l gets, of matrix i, the pair of columns 2 (l % 4) in row l / 4, whose address lane 8 i + l / 4 gave.
    let want = each_few(|t| {
        let (warp, lane) = (t / 32 * 32, t % 32);
        std::array::from_fn::<u32, 4, _>(|i| x[4 * ((warp + 8 * i + lane / 4) ^ 5) + lane % 4])
    });
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn matrices_turned(case: &Case) {
    let x = random(8, 4 * THREADS);
    // Lane l gets, of matrix i, rows 2 (l % 4) and the next of column l / 4.
    let want = each_few(|t| {
        let (warp, lane) = (t / 32 * 32, t % 32);
        let at =
            |i: usize, row: usize, col: usize| x[4 * ((warp + 8 * i + row) ^ 5) + col / 2] >> (16 * (col % 2)) & 0xffff;
        std::array::from_fn::<u32, 4, _>(|i| {
            let (row, col) = (lane % 4 * 2, lane / 4);
            at(i, row, col) | at(i, row + 1, col) << 16
        })
    });
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

/// Four warps' operands: A[16][16] and B[8][16] as 16-bit values, C[16][8] as f32.
struct Operands {
    x: Vec<u32>,
    c: Vec<u32>,
}

/// Packs values drawn by `ab` and `c`, and returns the f64 result of each element with the sum of its magnitudes.
fn operands(
    round: fn(f64) -> (u16, f64),
    ab: impl Fn(&mut Rng) -> f64,
    c: impl Fn(&mut Rng) -> f32,
) -> (Operands, Vec<(f64, f64)>) {
    let mut rng = Rng(9);
    let (mut packed, mut addends, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for _warp in 0..4 {
        let values: Vec<(u16, f64)> = (0..384).map(|_| round(ab(&mut rng))).collect();
        packed.extend(
            values
                .chunks(2)
                .map(|pair| u32::from(pair[0].0) | u32::from(pair[1].0) << 16),
        );
        for row in 0..16 {
            for column in 0..8 {
                let start = c(&mut rng);
                addends.push(start.to_bits());
                let products = (0..16).map(|k| values[16 * row + k].1 * values[256 + 16 * column + k].1);
                let start = f64::from(start);
                want.push(products.fold((start, start.abs()), |(sum, size), p| (sum + p, size + p.abs())));
            }
        }
    }
    (Operands { x: packed, c: addends }, want)
}

fn mma(case: &Case, round: fn(f64) -> (u16, f64)) {
    // Integers whose sums need fewer than 24 bits: no order of adding rounds, so the bits are known.
    let small = |rng: &mut Rng| rng.below(33) as f64 - 16.0;
    let (operands_exact, want) = operands(round, small, |rng| rng.below(1 << 20) as f32 - 524288.0);
    let want: Vec<u32> = want.iter().map(|(sum, _)| (*sum as f32).to_bits()).collect();
    case.run(1, &operands_exact.x, &operands_exact.c, want.len(), |out| {
        assert_eq!(out, want)
    });

    // Tensor cores align the 17 addends to the largest and cut off what is below its 2^-23 or so: an error of less than
    // 17 * 2^-23 of the largest magnitude, however they are grouped. Four times that leaves room for two groups of eight.
    let (operands_random, want) = operands(round, Rng::normal, |rng| rng.normal() as f32);
    case.run(1, &operands_random.x, &operands_random.c, want.len(), |out| {
        for (i, (got, (sum, size))) in out.iter().zip(&want).enumerate() {
            let (got, bound) = (f64::from(f32::from_bits(*got)), size * 68.0 / f64::from(1 << 23));
            assert!(
                (got - sum).abs() <= bound,
                "element {i}: {got} instead of {sum}, bound {bound:e}"
            );
        }
    });
}

pub fn mma_bf16(case: &Case) {
    mma(case, |v| {
        let rounded = bf16::from_f64(v);
        (rounded.to_bits(), rounded.to_f64())
    });
}

pub fn mma_f16(case: &Case) {
    mma(case, |v| {
        let rounded = f16::from_f64(v);
        (rounded.to_bits(), rounded.to_f64())
    });
}

pub fn words(case: &Case) {
    let x = random(10, 2 * THREADS);
    let want: Vec<u32> = (1..=3)
        .flat_map(|add| {
            let x = &x;
            each_few(move |t| {
                let sum = (u64::from(x[2 * t]) | u64::from(x[2 * t + 1]) << 32).wrapping_add(add);
                [sum as u32, (sum >> 32) as u32]
            })
        })
        .collect();
    case.run(1, &x, &[], want.len(), |out| assert_eq!(out, want));
}

pub fn message(case: &Case) {
    let x = random(11, THREADS);
    let want = each(|t| x[t].wrapping_mul(3).wrapping_add(1));
    case.run(2, &x, &[], 512 + THREADS, |out| {
        assert_eq!(&out[..2], [7, 0]);
        assert_eq!(out[512..], want);
    });
}

pub fn atomics(case: &Case) {
    let grid = 4;
    let all = grid * THREADS;
    case.run(grid as u32, &[], &[], 2048 + all, |out| {
        assert_eq!(out[0] as usize, all, "every addition counts");
        assert_eq!(&out[16..16 + all], vec![1; all], "every old value is seen once");
        let winners: Vec<usize> = (0..all).filter(|t| out[1024 + t] == 0).collect();
        assert_eq!(winners.len(), 1, "one exchange succeeds: {winners:?}");
        assert_eq!(out[1] as usize, winners[0] + 1);
        let others = (0..all).filter(|t| *t != winners[0]).all(|t| out[1024 + t] == out[1]);
        assert!(others, "all other exchanges see the winner's word");
        let word = |at| u64::from(out[at]) | u64::from(out[at + 1]) << 32;
        assert_eq!(word(2), (0..all as u64).map(|t| (1 << 33) + t).sum::<u64>());
        let largest = (0..all as u64).map(|t| (t % 7) << 40 | t).max();
        assert_eq!(Some(word(6)), largest);
        assert_eq!(word(4), all as u64 * ((1 << 33) + 1));
        assert_eq!(
            &out[2048..2048 + all],
            vec![1; all],
            "every old value of the word at 4, too"
        );
    });
}

pub fn packets(case: &Case) {
    let x = random(12, 2 * THREADS);
    let want = each_few(|t| [x[2 * t], 0x5eed, x[2 * t + 1], 0x5eed]);
    case.run(2, &x, &[], 2048, |out| assert_eq!(out[..4 * THREADS], want));
}

pub fn clock(case: &Case) {
    case.run(1, &[], &[], THREADS, |out| assert_eq!(out, [1; THREADS]));
}

/// f32 values where rounding, signs, subnormals, infinities and NaN matter.
#[rustfmt::skip]
pub const SPECIAL: [u32; 16] = [
    0x0000_0000, 0x8000_0000, 0x0000_0001, 0x807f_ffff, 0x0080_0000, 0x3f80_0000, 0xbf80_0001, 0x3f7f_ffff,
    0x4b80_0000, 0xcb7f_ffff, 0x7f7f_ffff, 0xff7f_ffff, 0x7f80_0000, 0xff80_0000, 0x7fc0_1234, 0xff80_0001,
];

pub fn canonical(x: f32) -> u32 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
}

pub fn arithmetic(case: &Case) {
    let mut rng = Rng(13);
    for round in 0..8 {
        // All pairs of special values, each with some third; then random bits.
        let x: Vec<u32> = (0..THREADS)
            .flat_map(|t| {
                let pair = 128 * round + t;
                let third = SPECIAL[rng.below(16)];
                match round {
                    0 | 1 => [SPECIAL[pair / 16], SPECIAL[pair % 16], third],
                    _ => [rng.next() as u32, rng.next() as u32, rng.next() as u32],
                }
            })
            .collect();
        let want = each_few(|t| {
            let [a, b, c] = std::array::from_fn(|i| f32::from_bits(x[3 * t + i]));
            [a.mul_add(b, c), a + b, a * b, a / b, a.sqrt()].map(canonical)
        });
        case.run(1, &x, &[], want.len(), |out| {
            for t in 0..THREADS {
                assert_eq!(
                    out[5 * t..5 * t + 5],
                    want[5 * t..5 * t + 5],
                    "of {:x?}",
                    &x[3 * t..3 * t + 3]
                );
            }
        });
    }
}

fn to_bf16(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    if x.is_nan() {
        0x7fff
    } else {
        u32::from(bf16::from_f32(x).to_bits())
    }
}

fn to_f16(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    if x.is_nan() {
        0x7fff
    } else {
        u32::from(f16::from_f32(x).to_bits())
    }
}

/// An f16 NaN unpacks to some NaN: all are written as one here.
fn from_f16(bits: u32) -> u32 {
    canonical(f16::from_bits(bits as u16).to_f32())
}

pub fn conversions(case: &Case) {
    let mut rng = Rng(14);
    for round in 0..4 {
        let mut value = |t: usize| match round {
            0 => SPECIAL[t % 16],
            // Halfway between two bf16, then between two f16, and their neighbours: ties go to even.
            1 => ((rng.next() as u32) & 0xffff_0000 | 0x8000)
                .wrapping_add((t % 3) as u32)
                .wrapping_sub(1),
            2 => {
                let f16_range = 0x3800_0000 + ((rng.next() as u32) & 0x0fff_e000);
                (f16_range | 0x1000).wrapping_add((t % 3) as u32).wrapping_sub(1)
            }
            _ => rng.next() as u32,
        };
        let x: Vec<u32> = (0..2 * THREADS).map(&mut value).collect();
        let weight = random(15 + round as u64, THREADS);
        let want = each_few(|t| {
            let (lo, hi, pair) = (x[2 * t], x[2 * t + 1], weight[t]);
            [
                to_bf16(lo) | to_bf16(hi) << 16,
                to_f16(lo) | to_f16(hi) << 16,
                to_bf16(lo) << 16,
                from_f16(to_f16(lo)),
                lo,
                pair << 16,
                pair & 0xffff_0000,
                from_f16(pair & 0xffff),
                from_f16(pair >> 16),
            ]
        });
        case.run(1, &x, &weight, want.len(), |out| {
            for t in 0..THREADS {
                let mut got: [u32; 9] = out[9 * t..9 * t + 9].try_into().unwrap();
                for f16_value in [3, 7, 8] {
                    let value = f32::from_bits(got[f16_value]);
                    got[f16_value] = canonical(value);
                }
                let (lo, hi, pair) = (x[2 * t], x[2 * t + 1], weight[t]);
                assert_eq!(
                    got,
                    want[9 * t..9 * t + 9],
                    "of {lo:#x} and {hi:#x}, and of the pair {pair:#x}"
                );
            }
        });
    }
}

pub fn hints(case: &Case) {
    let x = random(16, THREADS);
    case.run(1, &x, &x, THREADS, |out| assert_eq!(out, x));
}

pub fn functions(case: &Case) {
    crate::functions::compare(case);
}
