//! RMSNorm and LayerNorm.

use proptest::prelude::*;
use tileweave::local::{Norm, NormBackward, NormKind};
use tileweave::reference::local::{NormGradients, norm, norm_backward, norm_stats};
use tileweave::reference::{decode, encode, rms_norm_exactly};
use tileweave::{DType, GroupConfig, Op, OpSpec, Operands, Tail};

use crate::common::{Rng, node};
use crate::support::*;

#[derive(Debug, Clone)]
struct Case {
    kind: NormKind,
    m: usize,
    d: usize,
    dtype: DType,
    eps: f32,
    beta: bool,
    /// Far from a mean of 0.
    offset: f64,
    data: u64,
}

/// Columns: of one thread, of a warp, of a CTA, beyond all chains.
fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..70, 3 => 200usize..600, 1 => prop::sample::select(vec![256usize, 257, 2048, 2049, 4104])]
}

prop_compose! {
    fn case()(
        layer in any::<bool>(), m in prop_oneof![4 => 0usize..20, 1 => 60usize..150], d in columns(), dtype in dtype(),
        eps in prop::sample::select(vec![1e-5f32, 1e-6, 0.1]), beta in any::<bool>(), offset in prop::sample::select(vec![0.0, 3.0]),
        data in any::<u64>(),
    ) -> Case {
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        Case { kind, m: if d > 700 { m.min(6) } else { m }, d, dtype, eps, beta: beta && layer, offset, data }
    }
}

struct Data {
    x: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    dy: Vec<f64>,
    add: Vec<f64>,
    before: [Vec<f64>; 2],
    /// As f32.
    stats: Vec<f64>,
}

impl Case {
    fn centred(&self) -> bool {
        self.kind == NormKind::Layer
    }

    fn data(&self) -> Data {
        let (mut rng, n) = (Rng(self.data), self.m * self.d);
        let mut x = draw(&mut rng, n, self.dtype, 1.5);
        x.iter_mut().for_each(|x| *x += self.offset);
        let x = round(self.dtype, x);
        let stats = x
            .chunks(self.d)
            .flat_map(|row| <[f64; 2]>::from(norm_stats(row, self.eps.into(), self.centred())));
        let stats = round(DType::F32, stats.collect());
        let mut draw = |n: usize| draw(&mut rng, n, self.dtype, 1.0);
        Data {
            x,
            gamma: draw(self.d),
            beta: draw(self.d),
            dy: draw(n),
            add: draw(n),
            before: [draw(self.d), draw(self.d)],
            stats,
        }
    }

    /// y's and the stats' bytes.
    fn forward(&self, lay: Lay, data: &Data) -> [Vec<u8>; 2] {
        let (rank, shape) = (lay.rank(), [self.m, self.d]);
        let x = lay.input(&rank, shape, self.dtype, &data.x);
        let gamma = lay.input(&rank, [1, self.d], self.dtype, &data.gamma);
        let beta = self.beta.then(|| lay.input(&rank, [1, self.d], self.dtype, &data.beta));
        let (mut y, mut stats) = (
            lay.output(&rank, shape, self.dtype),
            lay.output(&rank, [self.m, 2], DType::F32),
        );
        Norm {
            kind: self.kind,
            eps: self.eps,
            x: x.mat().unwrap(),
            gamma: gamma.mat().unwrap(),
            beta: beta.as_ref().map(|beta| beta.mat().unwrap()),
            y: y.mat_mut().unwrap(),
            stats: Some(stats.mat_mut().unwrap()),
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        [y.read().unwrap(), stats.read().unwrap()]
    }

    /// dx's, dgamma's and dbeta's bytes, the last two added to what was before where `accumulate`, dx to `add`.
    fn backward(&self, lay: Lay, data: &Data, accumulate: bool) -> [Vec<u8>; 3] {
        let (rank, shape, row) = (lay.rank(), [self.m, self.d], [1, self.d]);
        let x = lay.input(&rank, shape, self.dtype, &data.x);
        let gamma = lay.input(&rank, row, self.dtype, &data.gamma);
        let stats = lay.input(&rank, [self.m, 2], DType::F32, &data.stats);
        let dy = lay.input(&rank, shape, self.dtype, &data.dy);
        let add = accumulate.then(|| lay.input(&rank, shape, self.dtype, &data.add));
        let mut dx = lay.output(&rank, shape, self.dtype);
        let mut grads = [0, 1].map(|i| lay.slab(&rank, row, self.dtype, accumulate.then_some(&data.before[i])));
        let [dgamma, dbeta] = &mut grads;
        NormBackward {
            kind: self.kind,
            x: x.mat().unwrap(),
            gamma: gamma.mat().unwrap(),
            stats: stats.mat().unwrap(),
            dy: dy.mat().unwrap(),
            add: add.as_ref().map(|add| add.mat().unwrap()),
            dx: Some(dx.mat_mut().unwrap()),
            dgamma: Some(dgamma.mat_mut().unwrap()),
            dbeta: self.centred().then(|| dbeta.mat_mut().unwrap()),
            accumulate,
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        [dx.read().unwrap(), dgamma.read().unwrap(), dbeta.read().unwrap()]
    }

    /// How far a row's centred values, and its scale relative to itself, may err in f32.
    fn errors(&self, row: &[f64]) -> (Vec<f64>, f64) {
        let n = row.len() as f64;
        let (mean, _) = norm_stats(row, 0.0, self.centred());
        let of_mean = if self.centred() {
            (row_steps(row.len()) + 1.0) * U * row.iter().map(|x| x.abs()).sum::<f64>() / n
        } else {
            0.0
        };
        let centred: Vec<f64> = row.iter().map(|x| of_mean + U * (x - mean).abs()).collect();
        let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let twice = row
            .iter()
            .zip(&centred)
            .map(|(x, e)| (2.0 * (x - mean).abs() + e) * e)
            .sum::<f64>();
        // The sum, its division, eps; a square root halves it; the root and its inverse.
        let of_square = twice / (square + n * f64::from(self.eps)) + (row_steps(row.len()) + 3.0) * U;
        (centred, of_square / 2.0 + 2.0 * U)
    }
}

/// The largest part of its bound that an element of y comes to.
fn judge_forward(c: &Case, data: &Data, y: &[u8], stats: &[u8]) -> f64 {
    let want = norm(
        &data.x,
        &data.gamma,
        c.beta.then_some(&data.beta),
        c.eps.into(),
        c.centred(),
    );
    let mut bounds = Vec::new();
    let mut of_stats = Vec::new();
    for row in data.x.chunks(c.d) {
        let (mean, s) = norm_stats(row, c.eps.into(), c.centred());
        let (centred, relative) = c.errors(row);
        for (i, x) in row.iter().enumerate() {
            let gamma = data.gamma[i].abs();
            let scaled = gamma * s * (x - mean).abs();
            let beta = if c.beta { data.beta[i].abs() } else { 0.0 };
            bounds.push(gamma * s * centred[i] + scaled * (relative + 2.0 * U) + U * (scaled + beta));
        }
        of_stats.extend([
            centred.iter().copied().fold(0.0, f64::max) + U * mean.abs(),
            s * relative,
        ]);
    }
    let part = judge("y", c.dtype, &decode(c.dtype, y), &want, |i| bounds[i]);
    judge("stats", DType::F32, &decode(DType::F32, stats), &data.stats, |i| {
        of_stats[i] + U * data.stats[i].abs()
    });
    part
}

/// The same of dx.
fn judge_backward(c: &Case, data: &Data, accumulate: bool, got: &[Vec<u8>; 3]) -> f64 {
    let NormGradients {
        mut dx,
        mut dgamma,
        mut dbeta,
    } = norm_backward(&data.x, &data.gamma, c.eps.into(), c.centred(), &data.dy);
    let n = c.d as f64;
    let (mut of_dx, mut of_dgamma, mut of_dbeta) = (Vec::new(), vec![0.0; c.d], vec![0.0; c.d]);
    let rows = (c.m.div_ceil(64) + 6 + 1) as f64;
    for (row, dy) in data.x.chunks(c.d).zip(data.dy.chunks(c.d)) {
        let (mean, s) = norm_stats(row, c.eps.into(), c.centred());
        // Of h: the f32 stats, the subtraction, the product.
        let h: Vec<f64> = row.iter().map(|x| (x - mean) * s).collect();
        let of_h: Vec<f64> = row
            .iter()
            .zip(&h)
            .map(|(x, h)| U * (s * (mean.abs() + (x - mean).abs()) + 3.0 * h.abs()))
            .collect();
        let g: Vec<f64> = dy
            .iter()
            .zip(&data.gamma)
            .map(|(dy, gamma)| (dy * gamma).abs())
            .collect();
        let steps = row_steps(c.d) + 3.0;
        let mean_gh = g.iter().zip(&h).map(|(g, h)| g * h.abs()).sum::<f64>() / n;
        let of_gh = g.iter().zip(&of_h).map(|(g, e)| g * e).sum::<f64>() / n + steps * U * mean_gh;
        let mean_g = if c.centred() { g.iter().sum::<f64>() / n } else { 0.0 };
        for i in 0..c.d {
            let all = g[i] + h[i].abs() * mean_gh + mean_g;
            let e = h[i].abs() * of_gh + of_h[i] * mean_gh + steps * U * mean_g + 6.0 * U * all;
            of_dx.push(
                s * e
                    + if accumulate {
                        U * (s * all + data.add[of_dx.len()].abs())
                    } else {
                        0.0
                    },
            );
            of_dgamma[i] += dy[i].abs() * (of_h[i] + rows * U * h[i].abs());
            of_dbeta[i] += rows * U * dy[i].abs();
        }
    }
    if accumulate {
        dx.iter_mut().zip(&data.add).for_each(|(dx, add)| *dx += add);
        for (i, (sums, errors)) in [(&mut dgamma, &mut of_dgamma), (&mut dbeta, &mut of_dbeta)]
            .into_iter()
            .enumerate()
        {
            for ((sum, error), before) in sums.iter_mut().zip(errors.iter_mut()).zip(&data.before[i]) {
                *sum += before;
                *error += U * (sum.abs() + *error);
            }
        }
    }
    let part = judge("dx", c.dtype, &decode(c.dtype, &got[0]), &dx, |i| of_dx[i]);
    judge("dgamma", c.dtype, &decode(c.dtype, &got[1]), &dgamma, |i| of_dgamma[i]);
    if c.centred() {
        judge("dbeta", c.dtype, &decode(c.dtype, &got[2]), &dbeta, |i| of_dbeta[i]);
    }
    part
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn forward(c in case(), lay in lay()) {
        let data = c.data();
        let [y, stats] = c.forward(lay, &data);
        judge_forward(&c, &data, &y, &stats);
        prop_assert!([y, stats] == c.forward(PLAIN, &data), "other bits than where all is aligned");
    }

    #[test]
    fn backward(c in case(), lay in lay(), accumulate in any::<bool>()) {
        let data = c.data();
        let got = c.backward(lay, &data, accumulate);
        judge_backward(&c, &data, accumulate, &got);
        prop_assert!(got == c.backward(PLAIN, &data, accumulate), "other bits than where all is aligned");
    }

    /// An RMSNorm has the bits that numerics.md promises of a tail.
    #[test]
    fn an_rms_norm_has_the_promised_bits(c in case(), lay in lay()) {
        let c = Case { kind: NormKind::Rms, beta: false, ..c };
        let data = c.data();
        let (_, want) = rms_norm_exactly(&data.x, &vec![0.0; data.x.len()], &data.gamma, c.eps, c.d, c.dtype);
        prop_assert!(c.forward(lay, &data)[0] == encode(c.dtype, &want));
    }
}

/// And the very bits that a tail leaves.
#[test]
fn an_rms_norm_has_a_tails_bits() {
    for (d, dtype) in [(200, DType::Bf16), (2500, DType::F16), (321, DType::F32)] {
        let c = Case {
            kind: NormKind::Rms,
            m: 5,
            d,
            dtype,
            eps: 1e-5,
            beta: false,
            offset: 0.5,
            data: 7,
        };
        let data = c.data();
        let spec = OpSpec::new(Op::AllReduce, d, 0, c.m, dtype).tail(Tail::RmsNorm { eps: c.eps });
        let config = GroupConfig::default()
            .sized_for(std::slice::from_ref(&spec), 1)
            .unwrap();
        let rank = node(1, 3).group(1, &config).unwrap().remove(0);
        let shape = [c.m, d];
        let (x, gamma) = (
            PLAIN.input(&rank, shape, dtype, &data.x),
            PLAIN.input(&rank, [1, d], dtype, &data.gamma),
        );
        let (mut residual, mut out) = (
            PLAIN.input(&rank, shape, dtype, &vec![0.0; c.m * d]),
            PLAIN.output(&rank, shape, dtype),
        );
        let operands = Operands::plain(c.m, x.mat().unwrap(), out.mat_mut().unwrap());
        let operands = operands.tail(residual.mat_mut().unwrap(), gamma.mat().unwrap());
        rank.plan(&spec).unwrap().launch(&operands).unwrap();
        rank.synchronize().unwrap();
        assert_eq!(out.read().unwrap(), c.forward(PLAIN, &data)[0], "{d} {dtype}");
    }
}

/// What is in a row stays in the row, and the elements of an input may be those of the output.
#[test]
fn nan_stays_in_its_row_and_places_may_be_shared() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        let c = Case {
            kind,
            m: 3,
            d: 300,
            dtype: DType::F32,
            eps: 1e-5,
            beta: false,
            offset: 0.0,
            data: 9,
        };
        let mut data = c.data();
        data.x[300 + 17] = f64::NAN;
        let y = decode(c.dtype, &c.forward(PLAIN, &data)[0]);
        assert!(
            y.chunks(300)
                .map(|row| row.iter().all(|y| y.is_nan()))
                .eq([false, true, false])
        );
        assert!(y.iter().filter(|y| y.is_nan()).count() == 300);

        let data = c.data();
        let rank = PLAIN.rank();
        let gamma = PLAIN.input(&rank, [1, 300], c.dtype, &data.gamma);
        let mut x = PLAIN.input(&rank, [3, 300], c.dtype, &data.x);
        let y = x.mat_mut().unwrap();
        // SAFETY: x's buffer lives to the end of this block, and the kernel may read what it writes over.
        let x_mat = unsafe { tileweave::Mat::from_raw(y.ptr(), 3, 300, 300, c.dtype) };
        Norm {
            kind,
            eps: c.eps,
            x: x_mat,
            gamma: gamma.mat().unwrap(),
            beta: None,
            y,
            stats: None,
        }
        .launch(&rank)
        .unwrap();
        rank.synchronize().unwrap();
        assert_eq!(x.read().unwrap(), c.forward(PLAIN, &data)[0]);
    }
}

/// Where nothing is rounded to a narrower type, values come to a good part of their bounds: a wrong digit would be seen.
#[test]
fn bounds_are_not_vacuous() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        let c = Case {
            kind,
            m: 8,
            d: 700,
            dtype: DType::F32,
            eps: 1e-5,
            beta: false,
            offset: 0.5,
            data: 2,
        };
        let data = c.data();
        let [y, stats] = c.forward(PLAIN, &data);
        let parts = [
            judge_forward(&c, &data, &y, &stats),
            judge_backward(&c, &data, false, &c.backward(PLAIN, &data, false)),
        ];
        println!("{kind:?}: {parts:.3?}");
        assert!(parts.iter().all(|part| *part > 0.03), "{kind:?}: {parts:?}");
    }
}
