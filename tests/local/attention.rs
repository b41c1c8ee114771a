//! Causal attention with grouped queries, by tiles.

use proptest::prelude::*;
use tileweave::DType;
use tileweave::local::{Attention, AttentionBackward};
use tileweave::reference::decode;
use tileweave::reference::local::{self, Heads};

use crate::common::Rng;
use crate::support::*;

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    seq: usize,
    kv_heads: usize,
    /// Query heads for each of them.
    group: usize,
    head_size: usize,
    dtype: DType,
    /// Of q and k: how sharp the softmax is.
    sharp: f64,
    data: u64,
}

prop_compose! {
    fn case()(
        batch in 0usize..3, seq in prop_oneof![3 => 1usize..34, 1 => 60usize..80], kv_heads in 1usize..3, group in 1usize..3,
        head_size in prop_oneof![3 => 1usize..20, 2 => prop::sample::select(vec![32usize, 64, 65, 128]), 1 => prop::sample::select(vec![136usize, 256])],
        dtype in dtype(), sharp in prop::sample::select(vec![1.0, 4.0]), data in any::<u64>(),
    ) -> Case {
        let (batch, group) = if seq > 50 || head_size > 100 { (batch.min(1), 1) } else { (batch, group) };
        Case { batch, seq, kv_heads, group, head_size, dtype, sharp, data }
    }
}

struct Data {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    d: Vec<f64>,
    /// Rounded, as forward leaves them.
    o: Vec<f64>,
    lse: Vec<f64>,
}

/// An error of every element that is made of products of two errors' sources: how large terms are, and how far they are off.
struct Bounds {
    o: Vec<f64>,
    lse: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn rows(&self) -> usize {
        self.batch * self.seq
    }

    fn reference(&self) -> Heads {
        Heads {
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            seq: self.seq,
            scale: f64::from(self.scale()),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }

    fn shapes(&self) -> [[usize; 2]; 3] {
        let columns = |heads: usize| [self.rows(), heads * self.head_size];
        [
            columns(self.heads()),
            columns(self.kv_heads),
            [self.rows(), self.heads()],
        ]
    }

    fn data(&self) -> Data {
        let mut rng = Rng(self.data);
        let ([q, kv, _], dtype) = (self.shapes().map(|[m, n]| m * n), self.dtype);
        let mut of = |n: usize, scale: f64| draw(&mut rng, n, dtype, scale);
        let (q, k, v, d) = (of(q, self.sharp), of(kv, self.sharp), of(kv, 1.0), of(q, 1.0));
        let (o, lse) = local::attention(&self.reference(), &q, &k, &v);
        Data {
            q,
            k,
            v,
            d,
            o: round(dtype, o),
            lse: round(DType::F32, lse),
        }
    }

    /// o and lse.
    fn forward(&self, lay: Lay, data: &Data) -> [Vec<u8>; 2] {
        let (rank, [q, kv, stats], dtype) = (lay.rank(), self.shapes(), self.dtype);
        let of = |shape, values: &[f64]| lay.input(&rank, shape, dtype, values);
        let (q_at, k, v) = (of(q, &data.q), of(kv, &data.k), of(kv, &data.v));
        let (mut o, mut lse) = (lay.output(&rank, q, dtype), lay.output(&rank, stats, DType::F32));
        Attention {
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            seq: self.seq,
            scale: self.scale(),
            q: q_at.mat().unwrap(),
            k: k.mat().unwrap(),
            v: v.mat().unwrap(),
            o: o.mat_mut().unwrap(),
            lse: Some(lse.mat_mut().unwrap()),
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        [o.read().unwrap(), lse.read().unwrap()]
    }

    /// dq, dk, dv.
    fn backward(&self, lay: Lay, data: &Data) -> [Vec<u8>; 3] {
        let (rank, [q, kv, stats], dtype) = (lay.rank(), self.shapes(), self.dtype);
        let of = |shape, values: &[f64]| lay.input(&rank, shape, dtype, values);
        let (q_at, k, v, o, d) = (
            of(q, &data.q),
            of(kv, &data.k),
            of(kv, &data.v),
            of(q, &data.o),
            of(q, &data.d),
        );
        let lse = lay.input(&rank, stats, DType::F32, &data.lse);
        let mut delta = lay.output(&rank, stats, DType::F32);
        let [mut dq, mut dk, mut dv] = [q, kv, kv].map(|shape| lay.output(&rank, shape, dtype));
        AttentionBackward {
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            seq: self.seq,
            scale: self.scale(),
            q: q_at.mat().unwrap(),
            k: k.mat().unwrap(),
            v: v.mat().unwrap(),
            o: o.mat().unwrap(),
            lse: lse.mat().unwrap(),
            do_: d.mat().unwrap(),
            delta: delta.mat_mut().unwrap(),
            dq: dq.mat_mut().unwrap(),
            dk: dk.mat_mut().unwrap(),
            dv: dv.mat_mut().unwrap(),
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        [dq.read().unwrap(), dk.read().unwrap(), dv.read().unwrap()]
    }

    /// docs/local.md, "Attention": errors of scores, of probabilities, of ds, and of the sums over them.
    fn bounds(&self, data: &Data) -> Bounds {
        let (h, hs, heads) = (self.reference(), self.head_size, self.heads());
        let zeros = |like: &[f64]| vec![0.0; like.len()];
        let mut b = Bounds {
            o: zeros(&data.q),
            lse: zeros(&data.lse),
            dq: zeros(&data.q),
            dk: zeros(&data.k),
            dv: zeros(&data.v),
        };
        let dot = |a: &[f64], b: &[f64]| (0..hs).map(|c| a[c] * b[c]).sum::<f64>();
        let size = |a: &[f64], b: &[f64]| (0..hs).map(|c| (a[c] * b[c]).abs()).sum::<f64>();
        // Additions of a row's terms: its tiles' sums and rescalings, and within a tile.
        let steps = (self.seq + 8 * self.seq.div_ceil(32) + 16) as f64;
        let keys = (self.seq * self.group) as f64;
        for (row, head) in (0..self.rows()).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let (at, first) = ((row * heads + head) * hs, row / self.seq * self.seq);
            let (q, d, lse) = (&data.q[at..], &data.d[at..], data.lse[row * heads + head]);
            let kv = |j: usize| (j * self.kv_heads + head / self.group) * hs;
            let off = |j: usize| (hs + 2) as f64 * U * h.scale * size(q, &data.k[kv(j)..]);
            let most = (first..=row)
                .map(|j| off(j) + 2.0 * U * (h.scale * dot(q, &data.k[kv(j)..]) - lse).abs())
                .fold(0.0, f64::max);
            // Of a probability, relative to it: the scores' and the sums' errors; lse, where it is given.
            let relative = 2.2 * most + (steps + 8.0) * U;
            let given = 1.1 * (most + U * lse.abs()) + 6.0 * U;
            b.lse[row * heads + head] = relative + 4.0 * U * (lse.abs() + 1.0);
            let of_delta = (self.dtype.unit_roundoff() + (hs + 8) as f64 * U) * size(d, &data.o[at..]) + 1e-30;
            let exact = dot(d, &data.o[at..]);
            for j in first..=row {
                let at_kv = kv(j);
                let p = (h.scale * dot(q, &data.k[at_kv..]) - lse).exp();
                let dp = dot(d, &data.v[at_kv..]);
                let of_dp = hs as f64 * U * size(d, &data.v[at_kv..]);
                let ds = p * h.scale * (dp - exact).abs();
                let of_ds = p * h.scale * 1.1 * (of_dp + of_delta) + ds * (given + 5.0 * U);
                for c in 0..hs {
                    b.o[at + c] += p * data.v[at_kv + c].abs() * relative;
                    b.dq[at + c] += (of_ds + steps * U * ds) * data.k[at_kv + c].abs();
                    b.dk[at_kv + c] += (of_ds + keys * U * ds) * data.q[at + c].abs();
                    b.dv[at_kv + c] += p * (given + keys * U) * data.d[at + c].abs();
                }
            }
        }
        b
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn forward(c in case(), lay in lay()) {
        let (data, h) = (c.data(), c.reference());
        let [o, lse] = c.forward(lay, &data);
        let bounds = c.bounds(&data);
        let (want, want_lse) = local::attention(&h, &data.q, &data.k, &data.v);
        judge("o", c.dtype, &decode(c.dtype, &o), &want, |i| bounds.o[i]);
        judge("lse", DType::F32, &decode(DType::F32, &lse), &want_lse, |i| bounds.lse[i]);
        prop_assert!([o, lse] == c.forward(PLAIN, &data), "other bits than where all is aligned");
    }

    #[test]
    fn backward(c in case(), lay in lay()) {
        let (data, h) = (c.data(), c.reference());
        let got = c.backward(lay, &data);
        let bounds = c.bounds(&data);
        let want = local::attention_backward(&h, &data.q, &data.k, &data.v, &data.d);
        let judged = [("dq", &want.dq, &bounds.dq), ("dk", &want.dk, &bounds.dk), ("dv", &want.dv, &bounds.dv)];
        for ((name, want, bound), got) in judged.into_iter().zip(&got) {
            judge(name, c.dtype, &decode(c.dtype, got), want, |i| bound[i]);
        }
        prop_assert!(got == c.backward(PLAIN, &data), "other bits than where all is aligned");
    }
}

fn plain(seq: usize, head_size: usize, dtype: DType) -> Case {
    Case {
        batch: 1,
        seq,
        kv_heads: 1,
        group: 1,
        head_size,
        dtype,
        sharp: 1.0,
        data: 5,
    }
}

/// Scores far beyond what exp takes: the softmax is one key, and its v comes through.
#[test]
fn sharp_scores() {
    let c = Case {
        sharp: 1e4,
        ..plain(40, 16, DType::F32)
    };
    let data = c.data();
    let [o, lse] = c.forward(PLAIN, &data).map(|bytes| decode(DType::F32, &bytes));
    let (want, want_lse) = local::attention(&c.reference(), &data.q, &data.k, &data.v);
    assert!(
        lse.iter()
            .zip(&want_lse)
            .all(|(got, want)| (got - want).abs() <= 1e-5 * want.abs())
    );
    let off = o
        .iter()
        .zip(&want)
        .filter(|(o, want)| (**o - **want).abs() > 1e-3)
        .count();
    assert_eq!(off, 0, "one key has all of the weight, or ties are close");
}

/// NaN of a query is in its row alone; NaN of a key or a value is in the rows that see it, and in no tile before it.
#[test]
fn nan_is_seen_by_those_who_look() {
    let c = plain(70, 8, DType::F32);
    let rows_of_nan = |data: &Data| -> Vec<usize> {
        let o = decode(DType::F32, &c.forward(PLAIN, data)[0]);
        let rows = o
            .chunks(8)
            .enumerate()
            .filter(|(_, row)| row.iter().any(|o| o.is_nan()));
        rows.map(|(row, _)| row).collect()
    };
    let mut data = c.data();
    data.q[33 * 8] = f64::NAN;
    assert_eq!(rows_of_nan(&data), [33]);
    let mut data = c.data();
    data.k[40 * 8 + 3] = f64::NAN;
    assert_eq!(rows_of_nan(&data), (40..70).collect::<Vec<_>>());
    let mut data = c.data();
    data.v[40 * 8 + 3] = f64::NAN;
    assert_eq!(rows_of_nan(&data), (32..70).collect::<Vec<_>>());
}

/// Sequences and heads do not see each other: each alone gives the same bits.
#[test]
fn sequences_are_apart() {
    let c = Case {
        batch: 3,
        kv_heads: 2,
        group: 2,
        ..plain(37, 24, DType::Bf16)
    };
    let data = c.data();
    let [all, _] = c.forward(PLAIN, &data);
    let row = c.heads() * c.head_size;
    for batch in 0..3 {
        let part = |values: &[f64], row: usize| values[batch * c.seq * row..][..c.seq * row].to_vec();
        let kv = c.kv_heads * c.head_size;
        let alone = Data {
            q: part(&data.q, row),
            k: part(&data.k, kv),
            v: part(&data.v, kv),
            d: vec![],
            o: vec![],
            lse: vec![],
        };
        let [o, _] = Case { batch: 1, ..c.clone() }.forward(PLAIN, &alone);
        assert_eq!(o, all[batch * c.seq * row * 2..][..c.seq * row * 2], "sequence {batch}");
    }
}

/// Where nothing is rounded to a narrower type, values come to a good part of their bounds: a wrong digit would be seen.
#[test]
fn bounds_are_not_vacuous() {
    let c = Case {
        kv_heads: 2,
        group: 2,
        ..plain(50, 32, DType::F32)
    };
    let (data, h) = (c.data(), c.reference());
    let bounds = c.bounds(&data);
    let part = |name: &str, got: &[u8], want: &[f64], bound: &[f64]| {
        judge(name, c.dtype, &decode(c.dtype, got), want, |i| bound[i])
    };
    let [o, _] = c.forward(PLAIN, &data);
    let [dq, dk, dv] = c.backward(PLAIN, &data);
    let want = local::attention_backward(&h, &data.q, &data.k, &data.v, &data.d);
    let parts = [
        part("o", &o, &local::attention(&h, &data.q, &data.k, &data.v).0, &bounds.o),
        part("dq", &dq, &want.dq, &bounds.dq),
        part("dk", &dk, &want.dk, &bounds.dk),
        part("dv", &dv, &want.dv, &bounds.dv),
    ];
    println!("{parts:.3?}");
    assert!(parts.iter().all(|part| *part > 0.01), "{parts:?}");
}
