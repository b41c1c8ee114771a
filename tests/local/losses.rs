//! Cross-entropy over a vocabulary in parts: all on one rank here.

use proptest::prelude::*;
use tileweave::DType;
use tileweave::local::{FirstBad, LogitStats, LossBackward, LossFromStats};
use tileweave::reference::decode;
use tileweave::reference::local::{CrossEntropy, cross_entropy, cross_entropy_backward};

use crate::common::{Rng, Slab};
use crate::support::*;

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    /// Columns of every part.
    parts: Vec<usize>,
    dtype: DType,
    scale: f64,
    ignore: Option<i64>,
    data: u64,
}

prop_compose! {
    fn case()(
        m in prop_oneof![6 => 0usize..12, 1 => 300usize..310], one in prop_oneof![3 => 1usize..40, 1 => 2040usize..2060],
        parts in prop::collection::vec(0usize..40, 0..3), dtype in dtype(), scale in prop::sample::select(vec![1.0, 100.0]),
        ignore in prop::option::of(prop::sample::select(vec![-100i64, 0])), data in any::<u64>(),
    ) -> Case {
        let mut all = vec![if m > 100 { one.min(40) } else { one }];
        all.extend(parts);
        Case { m, parts: all, dtype, scale, ignore, data }
    }
}

struct Data {
    /// All columns.
    logits: Vec<f64>,
    targets: Vec<i64>,
    dloss: Vec<f64>,
}

/// What the parts left: loss, lse, and every part's dlogits, as bytes.
#[derive(PartialEq)]
struct Results {
    loss: Vec<u8>,
    lse: Vec<u8>,
    dlogits: Vec<Vec<u8>>,
    bad: Option<(usize, i64)>,
}

impl Case {
    fn vocabulary(&self) -> usize {
        self.parts.iter().sum()
    }

    fn data(&self) -> Data {
        let (mut rng, v) = (Rng(self.data), self.vocabulary());
        let logits = draw(&mut rng, self.m * v, self.dtype, self.scale);
        let mut target = || {
            if self.ignore.is_some() && rng.below(4) == 0 {
                self.ignore.unwrap_or(0)
            } else {
                rng.below(v) as i64
            }
        };
        let targets = (0..self.m).map(|_| target()).collect();
        Data {
            logits,
            targets,
            dloss: draw(&mut rng, self.m, DType::F32, 1.0),
        }
    }

    /// Where each part begins.
    fn firsts(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.parts.iter().scan(0, |first, part| {
            *first += part;
            Some((*first - part, *part))
        })
    }

    fn columns(&self, all: &[f64], first: usize, part: usize) -> Vec<f64> {
        all.chunks(self.vocabulary().max(1))
            .flat_map(|row| row[first..][..part].to_vec())
            .collect()
    }

    fn run(&self, lay: Lay, data: &Data) -> Results {
        let (rank, world) = (lay.rank(), self.parts.len());
        let targets = ids(&rank, &data.targets);
        let targets = targets.ids(self.m).unwrap();
        let mut stats = lay.output(&rank, [world * self.m, 3], DType::F32);
        let ld = 3 + lay.gap;
        let logits: Vec<Slab> = self
            .firsts()
            .map(|(first, part)| {
                lay.input(
                    &rank,
                    [self.m, part],
                    self.dtype,
                    &self.columns(&data.logits, first, part),
                )
            })
            .collect();
        let base = stats.mat_mut().unwrap().ptr();
        for (i, ((first, _), logits)) in self.firsts().zip(&logits).enumerate() {
            let at = base + (i * self.m * ld * 4) as u64;
            // SAFETY: rows of this part within stats' buffer, which lives on; the parts' rows are apart.
            let part = unsafe { tileweave::MatMut::from_raw(at, self.m, 3, ld, DType::F32) };
            let stats = LogitStats {
                logits: logits.mat().unwrap(),
                targets,
                first: first as i64,
                stats: part,
            };
            stats.launch(&rank).unwrap();
        }
        let [mut loss, mut lse] = [0, 1].map(|_| lay.output(&rank, [self.m, 1], DType::F32));
        let bad = FirstBad::new(&rank).unwrap();
        LossFromStats {
            all: stats.mat().unwrap(),
            world,
            m: self.m,
            targets,
            vocabulary: self.vocabulary() as i64,
            ignore: self.ignore,
            loss: loss.mat_mut().unwrap(),
            lse: lse.mat_mut().unwrap(),
            bad: Some(&bad),
        }
        .launch(&rank)
        .unwrap();
        let dloss = lay.input(&rank, [self.m, 1], DType::F32, &data.dloss);
        let backward = |((first, part), logits): ((usize, usize), &Slab)| {
            let mut dlogits = lay.output(&rank, [self.m, part], self.dtype);
            LossBackward {
                logits: logits.mat().unwrap(),
                targets,
                first: first as i64,
                ignore: self.ignore,
                lse: lse.mat().unwrap(),
                dloss: dloss.mat().unwrap(),
                dlogits: dlogits.mat_mut().unwrap(),
            }
            .launch(&rank)
            .unwrap();
            rank.synchronize().unwrap();
            dlogits.read().unwrap()
        };
        let dlogits = self.firsts().zip(&logits).map(backward).collect();
        rank.synchronize().unwrap();
        Results {
            loss: loss.read().unwrap(),
            lse: lse.read().unwrap(),
            dlogits,
            bad: bad.get().unwrap(),
        }
    }

    fn judge(&self, data: &Data, got: &Results) {
        let v = self.vocabulary();
        let CrossEntropy { loss, lse } = cross_entropy(&data.logits, &data.targets, v, self.ignore);
        let row = |i: usize| &data.logits[i * v..][..v];
        let largest = |i: usize| row(i).iter().fold(0f64, |most, x| most.max(x.abs()));
        // exp errs by 1.1 units, its argument's rounding by its size times exp of it, at most 1 / e; then the sums, and the parts'.
        let sum = (row_steps(v) + 8.0 + self.parts.len() as f64) * U;
        let of_lse = |i: usize| sum + 2.0 * U * (2.0 * (v as f64).ln() + lse[i].abs() + largest(i));
        judge("lse", DType::F32, &decode(DType::F32, &got.lse), &lse, of_lse);
        judge("loss", DType::F32, &decode(DType::F32, &got.loss), &loss, |i| {
            of_lse(i) + 4.0 * U * largest(i)
        });
        let want = cross_entropy_backward(&data.logits, &data.targets, v, self.ignore, &data.dloss);
        for ((first, part), dlogits) in self.firsts().zip(&got.dlogits) {
            let (want, x) = (
                self.columns(&want, first, part),
                self.columns(&data.logits, first, part),
            );
            let bound = |j: usize| {
                let i = j / part;
                let p = (x[j] - lse[i]).exp();
                // The error of lse, of the difference, of exp.
                let of_p = p * (1.1 * (of_lse(i) + U * (x[j] - lse[i]).abs()) + 4.0 * U);
                (of_p + 2.0 * U) * data.dloss[i].abs()
            };
            judge("dlogits", self.dtype, &decode(self.dtype, dlogits), &want, bound);
        }
    }
}

proptest! {
    #![proptest_config(cases(50))]

    #[test]
    fn losses_and_gradients(c in case(), lay in lay()) {
        let data = c.data();
        let got = c.run(lay, &data);
        c.judge(&data, &got);
        prop_assert!(got.bad.is_none());
        prop_assert!(got == c.run(PLAIN, &data), "other bits than where all is aligned");
    }
}

/// Infinite logits of either sign, whole parts of -infinity, NaN, targets outside.
#[test]
fn extremes() {
    let v = 12;
    let c = Case {
        m: 6,
        parts: vec![5, 7],
        dtype: DType::F32,
        scale: 1.0,
        ignore: Some(-100),
        data: 3,
    };
    let mut data = c.data();
    let none = f64::NEG_INFINITY;
    // A part of -infinity alone, and one logit of it; very large and very small ones; NaN; a target outside, twice; one to ignore.
    data.logits[..5].fill(none);
    data.logits[v..v + 12].copy_from_slice(&[3e38, -3e38, 2.9e38, 0.0, none, 0.0, 3e38, 0.0, 0.0, 0.0, 0.0, 0.0]);
    data.logits[2 * v + 6] = f64::NAN;
    data.targets = vec![7, 6, 1, v as i64, -1, -100];
    let got = c.run(PLAIN, &data);
    let want = cross_entropy(&data.logits, &data.targets, v, c.ignore);
    let loss = decode(DType::F32, &got.loss);
    assert!(
        (loss[0] - want.loss[0]).abs() < 1e-5 && (loss[1] - 2f64.ln()).abs() < 1e-6,
        "{loss:?}"
    );
    assert!(
        loss[2].is_nan() && loss[3].is_nan() && loss[4].is_nan() && loss[5] == 0.0,
        "{loss:?}"
    );
    assert_eq!(got.bad, Some((3, v as i64)));
    // What is ignored has no gradient; NaN stays in its row.
    let first = decode(DType::F32, &got.dlogits[0]);
    assert!(first[5 * 5..].iter().all(|d| *d == 0.0));
    assert!(
        first
            .chunks(5)
            .map(|row| row.iter().all(|d| d.is_nan()))
            .eq([false, false, true, false, false, false])
    );
    assert!(first[..5].iter().all(|d| *d == 0.0), "exp(-infinity)");

    // No column at all.
    let c = Case {
        m: 2,
        parts: vec![0, 3],
        ..c
    };
    let data = c.data();
    c.judge(&data, &c.run(PLAIN, &data));
}
