//! The borders of both regions: every value, every byte, every view.

use proptest::prelude::*;
use tileweave::layer::*;
use tileweave::{DType, GroupConfig, Mat, Rank, Result, chunk, reference};

use super::common::*;
use super::{DTYPES, extent};

#[derive(Debug, Clone)]
struct Matrices {
    world: usize,
    spec: MappingSpec,
    m: usize,
    gap: usize,
    data_seed: u64,
}

prop_compose! {
    fn matrices()(
        world in 1usize..=8, m in prop_oneof![1 => Just(0usize), 9 => extent()], features in extent(),
        dtype in prop::sample::select(DTYPES.to_vec()), gap in 0usize..4, data_seed in any::<u64>(),
    ) -> Matrices {
        Matrices { world, spec: MappingSpec::new(features, m + gap, dtype), m, gap, data_seed }
    }
}

/// How a matrix lies on a rank.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    Whole,
    Rows,
    Columns,
}

impl Matrices {
    fn part(&self, held: Held, rank: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (m, d) = (self.m, self.spec.features);
        match held {
            Held::Whole => (0..m, 0..d),
            Held::Rows => (chunk(m, self.world, rank), 0..d),
            Held::Columns => (0..m, chunk(d, self.world, rank)),
        }
    }

    fn slab(&self, rank: &Rank, held: Held, values: Option<&[f64]>) -> Slab {
        let (rows, cols) = self.part(held, rank.rank());
        let values = values.map(|values| Data::part(values, self.spec.features, rows.clone(), cols.clone()));
        Slab::new(
            rank,
            rows.len(),
            cols.len(),
            self.gap,
            self.spec.dtype,
            values.as_deref(),
        )
        .unwrap()
    }

    /// A whole matrix of each rank's own.
    fn values(&self) -> Vec<Vec<f64>> {
        let mut rng = Rng(self.data_seed);
        let draw = |_| {
            let drawn: Vec<f64> = (0..self.m * self.spec.features).map(|_| rng.normal()).collect();
            reference::decode(self.spec.dtype, &reference::encode(self.spec.dtype, &drawn))
        };
        (0..self.world).map(draw).collect()
    }

    /// What travels: from matrices of rank r's own values (or of one whole matrix's parts) to `to`, which must hold `expected`.
    fn travel(
        &self,
        ranks: &[Rank],
        [from, to]: [Held; 2],
        expected: &[f64],
        values: &[Vec<f64>],
        stated: &dyn Fn(usize) -> Vec<Sends>,
        pass: &dyn Fn(usize, Mat<'_>, &mut Slab) -> Result<()>,
    ) {
        let before: Vec<u64> = ranks.iter().map(|r| r.stats().bytes_sent()).collect();
        let all = ranks.iter().zip(values);
        let mut slabs: Vec<[Slab; 2]> = all
            .map(|(r, values)| [self.slab(r, from, Some(values)), self.slab(r, to, None)])
            .collect();
        for (r, [from, to]) in slabs.iter_mut().enumerate() {
            pass(r, from.mat().unwrap(), to).unwrap();
        }
        ranks.iter().for_each(|r| r.synchronize().unwrap());
        for (r, [_, got]) in slabs.iter().enumerate() {
            let (rows, cols) = self.part(to, r);
            let want = Data::part(expected, self.spec.features, rows, cols);
            let got = reference::decode(self.spec.dtype, &got.read().unwrap());
            assert_eq!(got, want, "rank {r} of {self:?}");
            let counted = ranks[r].stats().bytes_sent() - before[r];
            let sum = from == Held::Whole && to == Held::Whole;
            if self.gap == 0 || !sum {
                assert_eq!(Sends::total(&stated(r)), Some(counted), "rank {r} of {self:?}");
            }
        }
    }

    /// A view of this rank's part of `whole`.
    fn view(&self, rank: usize, held: Held, whole: &Slab, view: Result<Mat<'_>>) {
        let (whole, view, (rows, cols)) = (whole.mat().unwrap(), view.unwrap(), self.part(held, rank));
        assert_eq!([view.rows(), view.cols()], [rows.len(), cols.len()]);
        if view.rows() > 0 && view.cols() > 0 {
            let offset = (rows.start * whole.ld() + cols.start) * self.spec.dtype.size();
            assert_eq!((view.ptr(), view.ld()), (whole.ptr() + offset as u64, whole.ld()));
        }
    }
}

fn made<T>(ranks: &[Rank], spec: &MappingSpec, new: fn(&Rank, &MappingSpec) -> Result<T>) -> Vec<T> {
    ranks.iter().map(|r| new(r, spec).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn mappings(c in matrices(), one_shot in any::<bool>(), seed in any::<u64>()) {
        use Held::{Columns, Rows, Whole};
        let node = node(c.world, seed);
        let config = GroupConfig::default().one_shot_bytes(if one_shot { 8 << 10 } else { 0 });
        let ranks = &node.group(c.world, &config.sized_for(&c.spec.operations(), c.world).unwrap()).unwrap();
        let (m, spec, values) = (c.m, &c.spec, &c.values());
        let whole = &vec![values[0].clone(); c.world];
        let parts: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let sum = &reference::reduce_exactly(&parts, spec.dtype);
        let same = &values[0];

        let copy = made(ranks, spec, CopyToTensor::new);
        let reduce = made(ranks, spec, ReduceFromTensor::new);
        let scatter = made(ranks, spec, ScatterToTensor::new);
        let gather = made(ranks, spec, GatherFromTensor::new);
        let scatter_rows = made(ranks, spec, ScatterToSequence::new);
        let gather_rows = made(ranks, spec, GatherFromSequence::new);
        let reduce_scatter = made(ranks, spec, ReduceScatterToSequence::new);
        for (r, rank) in ranks.iter().enumerate() {
            let x = &c.slab(rank, Whole, Some(same));
            c.view(r, Whole, x, copy[r].forward(m, x.mat().unwrap()));
            c.view(r, Whole, x, reduce[r].backward(m, x.mat().unwrap()));
            c.view(r, Columns, x, scatter[r].forward(m, x.mat().unwrap()));
            c.view(r, Columns, x, gather[r].backward(m, x.mat().unwrap()));
            c.view(r, Rows, x, scatter_rows[r].forward(m, x.mat().unwrap()));
            c.view(r, Rows, x, gather_rows[r].backward_alike(m, x.mat().unwrap()));
            let none = [copy[r].forward_sends(m), reduce[r].backward_sends(m), scatter[r].forward_sends(m)];
            let none = none.iter().chain([gather[r].backward_sends(m), scatter_rows[r].forward_sends(m)].iter()).all(Vec::is_empty);
            assert!(none);
        }
        c.travel(ranks, [Whole, Whole], sum, values, &|r| copy[r].backward_sends(m), &|r, x, y| copy[r].backward(m, x, y.mat_mut()?));
        c.travel(ranks, [Whole, Whole], sum, values, &|r| reduce[r].forward_sends(m), &|r, x, y| reduce[r].forward(m, x, y.mat_mut()?));
        c.travel(ranks, [Columns, Whole], same, whole, &|r| scatter[r].backward_sends(m), &|r, x, y| scatter[r].backward(m, x, y.mat_mut()?));
        c.travel(ranks, [Columns, Whole], same, whole, &|r| gather[r].forward_sends(m), &|r, x, y| gather[r].forward(m, x, y.mat_mut()?));
        c.travel(ranks, [Rows, Whole], same, whole, &|r| scatter_rows[r].backward_sends(m), &|r, x, y| scatter_rows[r].backward(m, x, y.mat_mut()?));
        c.travel(ranks, [Rows, Whole], same, whole, &|r| gather_rows[r].forward_sends(m), &|r, x, y| gather_rows[r].forward(m, x, y.mat_mut()?));
        c.travel(ranks, [Whole, Rows], sum, values, &|r| gather_rows[r].backward_sends(m), &|r, x, y| gather_rows[r].backward(m, x, y.mat_mut()?));
        c.travel(ranks, [Whole, Rows], sum, values, &|r| reduce_scatter[r].forward_sends(m), &|r, x, y| reduce_scatter[r].forward(m, x, y.mat_mut()?));
        c.travel(ranks, [Rows, Whole], same, whole, &|r| reduce_scatter[r].backward_sends(m), &|r, x, y| reduce_scatter[r].backward(m, x, y.mat_mut()?));
        check_traffic(&node, ranks);
    }
}

/// Sums over what they are given.
#[test]
fn in_place() {
    let spec = MappingSpec::new(30, 17, DType::F32);
    let c = Matrices {
        world: 3,
        spec,
        m: 17,
        gap: 0,
        data_seed: 4,
    };
    let config = GroupConfig::default().sized_for(&spec.operations(), 3).unwrap();
    let ranks = node(3, 1).group(3, &config).unwrap();
    let values = c.values();
    let parts: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    let sum = reference::reduce_exactly(&parts, spec.dtype);
    for copy in [false, true] {
        let mut slabs: Vec<Slab> = Vec::new();
        for (rank, values) in ranks.iter().zip(&values) {
            let mut slab = c.slab(rank, Held::Whole, Some(values));
            let data = slab.mat_mut().unwrap();
            match copy {
                true => CopyToTensor::new(rank, &spec).unwrap().backward_in_place(17, data),
                false => ReduceFromTensor::new(rank, &spec).unwrap().forward_in_place(17, data),
            }
            .unwrap();
            slabs.push(slab);
        }
        for (rank, slab) in ranks.iter().zip(&slabs) {
            rank.synchronize().unwrap();
            assert_eq!(reference::decode(spec.dtype, &slab.read().unwrap()), sum);
        }
    }
}

#[test]
fn what_is_refused() {
    let ranks = node(3, 0)
        .group(3, &GroupConfig::default().heap_bytes(2 << 20))
        .unwrap();
    let rank = &ranks[1];
    let text = |error: tileweave::Error| error.to_string();
    let none = MappingSpec::new(0, 8, DType::F32);
    assert_eq!(
        text(CopyToTensor::new(rank, &none).unwrap_err()),
        "features is 0: expected at least 1"
    );
    let spec = MappingSpec::new(7, 8, DType::F32);
    let scatter = ScatterToTensor::new(rank, &spec).unwrap();
    let slab = |rows, cols| Slab::new(rank, rows, cols, 0, DType::F32, None).unwrap();
    let (x, mut y) = (slab(8, 7), slab(8, 7));
    let wrong = scatter.forward(9, x.mat().unwrap()).unwrap_err();
    assert_eq!(text(wrong), "m is 9: expected at most the layer's max_m, 8");
    let wrong = scatter.forward(5, x.mat().unwrap()).unwrap_err();
    assert_eq!(text(wrong), "x is [8, 7]: expected [5, 7] at M = 5 on rank 1 of 3");
    let wrong = scatter.backward(8, x.mat().unwrap(), y.mat_mut().unwrap()).unwrap_err();
    assert_eq!(text(wrong), "dy is [8, 7]: expected [8, 3] at M = 8 on rank 1 of 3");
    let gather = GatherFromSequence::new(rank, &spec).unwrap();
    let wrong = gather.backward(8, x.mat().unwrap(), y.mat_mut().unwrap()).unwrap_err();
    assert_eq!(text(wrong), "dx is [8, 7]: expected [3, 7] at M = 8 on rank 1 of 3");
}
