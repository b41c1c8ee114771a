//! One operation on a node: operands made from a seed, launched on every rank, judged by the f64 reference.
#![allow(dead_code)] // every test crate uses its part

use std::ops::Range;

use tileweave::driver::Kind;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::reference::{self, Expected, Gemm};
use tileweave::{
    Buffer, DType, Error, GroupConfig, Mat, MatMut, Node, Op, OpSpec, Operands, Out, Path, Plan, Rank, Result, Want,
    Wire,
};

/// The tests' tier: `TILEWEAVE_DEEP=n` does about n times as much.
pub fn deep() -> usize {
    std::env::var("TILEWEAVE_DEEP")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1)
        .max(1)
}

/// Whether the suite runs on a GPU (`TILEWEAVE_GPU=1`) instead of the simulated node.
pub fn on_gpu() -> bool {
    std::env::var("TILEWEAVE_GPU").is_ok_and(|v| v == "1")
}

/// The node that tests run on: the GPUs of this machine, or `world` simulated ones.
pub fn node(world: usize, seed: u64) -> Node {
    if on_gpu() {
        return Node::this_machine().expect("TILEWEAVE_GPU=1 needs a GPU");
    }
    Node::new(std::sync::Arc::new(
        SimNode::new(SimConfig::new(world, seed)).expect("a simulated node"),
    ))
}

/// splitmix64, enough for test data.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About normal: the sum of four uniforms, of variance 1.
    pub fn normal(&mut self) -> f64 {
        let z = self.next();
        let sum: f64 = (0..4).map(|i| (z >> (16 * i) & 0xffff) as f64 / 65536.0 - 0.5).sum();
        sum * 3f64.sqrt()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Case {
    pub op: Op,
    pub world: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dtype: DType,
    pub wire: Wire,
    pub bias: bool,
    pub addend: bool,
    /// Elements between the rows of every matrix.
    pub gap: usize,
    pub data_seed: u64,
}

impl Case {
    pub fn new(op: Op, world: usize, m: usize, n: usize, k: usize, dtype: DType) -> Case {
        let k = if op.has_gemm() { k } else { 0 };
        Case {
            op,
            world,
            m,
            n,
            k,
            dtype,
            wire: Wire::Output,
            bias: false,
            addend: false,
            gap: 0,
            data_seed: 1,
        }
    }

    pub fn bias(self) -> Case {
        Case { bias: true, ..self }
    }

    pub fn addend(self) -> Case {
        Case { addend: true, ..self }
    }

    pub fn wire(self, wire: Wire) -> Case {
        Case { wire, ..self }
    }

    pub fn gap(self, gap: usize) -> Case {
        Case { gap, ..self }
    }

    pub fn data(self, data_seed: u64) -> Case {
        Case { data_seed, ..self }
    }

    /// The routes this operation has.
    pub fn routes(&self) -> &'static [Path] {
        if self.op.has_gemm() {
            &[Path::Fused, Path::Unfused]
        } else {
            &[Path::Unfused]
        }
    }

    fn row_parallel(&self) -> bool {
        matches!(self.op, Op::GemmReduceScatter | Op::GemmAllReduce)
    }

    fn k_of(&self, rank: usize) -> Range<usize> {
        if self.row_parallel() {
            reference::chunk(self.k, self.world, rank)
        } else {
            0..self.k
        }
    }

    fn n_of(&self, rank: usize) -> Range<usize> {
        if self.op == Op::AllGatherGemm {
            reference::chunk(self.n, self.world, rank)
        } else {
            0..self.n
        }
    }

    fn m_of(&self, rank: usize) -> Range<usize> {
        reference::chunk(self.m, self.world, rank)
    }

    /// The spec of a rank, for M up to this case's.
    pub fn spec(&self, rank: usize, path: Path) -> OpSpec {
        OpSpec::new(
            self.op,
            self.n_of(rank).len(),
            self.k_of(rank).len(),
            self.m,
            self.dtype,
        )
        .wire(self.wire)
        .bias(self.bias)
        .route(Want::Exactly(path))
    }

    /// All ranks' specs, for both routes.
    pub fn all_specs(&self) -> Vec<OpSpec> {
        let ranks = 0..self.world;
        ranks
            .flat_map(|r| self.routes().iter().map(move |p| self.spec(r, *p)))
            .collect()
    }

    /// Rows and columns of a rank's result, in the global one.
    pub fn part(&self, rank: usize) -> (Range<usize>, Range<usize>) {
        match self.op {
            Op::GemmReduceScatter | Op::ReduceScatter => (self.m_of(rank), 0..self.n),
            Op::AllGatherGemm => (0..self.m, self.n_of(rank)),
            _ => (0..self.m, 0..self.n),
        }
    }
}

/// Full operands, rounded to the case's type.
pub struct Data {
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    addends: Vec<Vec<f64>>,
    inputs: Vec<Vec<f64>>,
}

fn round(dtype: DType, values: Vec<f64>) -> Vec<f64> {
    reference::decode(dtype, &reference::encode(dtype, &values))
}

impl Data {
    pub fn new(c: &Case) -> Data {
        let mut rng = Rng(c.data_seed);
        let mut draw = |n: usize, scale: f64| round(c.dtype, (0..n).map(|_| rng.normal() * scale).collect());
        let gemm = c.op.has_gemm();
        let scale = 1.0 / (c.k.max(1) as f64).sqrt();
        let count = |on: bool, n: usize| if on { n } else { 0 };
        let x = draw(count(gemm, c.m * c.k), 1.0);
        let weight = draw(count(gemm, c.n * c.k), scale);
        let bias = draw(count(c.bias, c.n), 1.0);
        let addends = (0..count(c.addend, c.world)).map(|_| draw(c.m * c.n, 1.0)).collect();
        let rows = |rank: usize| if c.op == Op::AllGather { c.m_of(rank).len() } else { c.m };
        let inputs = (0..count(!gemm, c.world)).map(|r| draw(rows(r) * c.n, 1.0)).collect();
        Data {
            x,
            weight,
            bias,
            addends,
            inputs,
        }
    }

    pub fn expected(&self, c: &Case) -> Expected {
        let inputs: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let addends: Vec<&[f64]> = self.addends.iter().map(Vec::as_slice).collect();
        let gemm = Gemm {
            m: c.m,
            n: c.n,
            k: c.k,
            x: &self.x,
            weight: &self.weight,
            bias: c.bias.then_some(self.bias.as_slice()),
            addends: &addends,
        };
        match c.op {
            Op::AllGatherGemm => gemm.gathered(c.dtype),
            _ if c.row_parallel() => gemm.reduce(c.world, c.dtype, c.wire),
            Op::AllGather => reference::gather(&inputs, c.m, c.n, c.dtype),
            _ => reference::reduce(&inputs, c.m, c.n, c.dtype),
        }
    }

    /// The `rows` x `cols` part of a matrix of `width` columns.
    fn part(full: &[f64], width: usize, rows: Range<usize>, cols: Range<usize>) -> Vec<f64> {
        rows.flat_map(|r| full[r * width + cols.start..r * width + cols.end].iter().copied())
            .collect()
    }
}

/// A matrix in device memory, with gaps between its rows that hold NaN.
pub struct Slab {
    pub buffer: Buffer,
    rows: usize,
    cols: usize,
    ld: usize,
    dtype: DType,
}

/// What gaps and fresh outputs hold: NaN in every type, with a payload no kernel makes.
const SENTINEL: u8 = 0xfe;

impl Slab {
    pub fn new(
        rank: &Rank,
        rows: usize,
        cols: usize,
        gap: usize,
        dtype: DType,
        values: Option<&[f64]>,
    ) -> Result<Slab> {
        let (ld, size) = (cols + gap, dtype.size());
        let mut bytes = vec![SENTINEL; (rows * ld * size).max(16)];
        if let Some(values) = values {
            let encoded = reference::encode(dtype, values);
            for (r, row) in encoded.chunks_exact((cols * size).max(1)).enumerate().take(rows) {
                bytes[r * ld * size..][..cols * size].copy_from_slice(row);
            }
        }
        let mut buffer = rank.alloc(bytes.len())?;
        buffer.upload(&bytes)?;
        Ok(Slab {
            buffer,
            rows,
            cols,
            ld,
            dtype,
        })
    }

    pub fn mat(&self) -> Result<Mat<'_>> {
        self.buffer.mat_at(0, self.rows, self.cols, self.ld, self.dtype)
    }

    pub fn mat_mut(&mut self) -> Result<MatMut<'_>> {
        self.buffer.mat_mut_at(0, self.rows, self.cols, self.ld, self.dtype)
    }

    /// The matrix's bytes without gaps; the gaps must be as they were.
    pub fn read(&self) -> Result<Vec<u8>> {
        let (ld, cols) = (self.ld * self.dtype.size(), self.cols * self.dtype.size());
        let bytes = self.buffer.to_vec::<u8>((self.rows * ld).max(16))?;
        let mut out = Vec::with_capacity(self.rows * cols);
        for row in bytes.chunks_exact(ld.max(1)).take(self.rows) {
            out.extend_from_slice(&row[..cols]);
            assert!(
                row[cols..].iter().all(|b| *b == SENTINEL),
                "a gap between rows was written"
            );
        }
        Ok(out)
    }
}

/// A rank's operands on its device.
pub struct Loaded {
    x: Slab,
    weight: Option<Slab>,
    bias: Option<Slab>,
    addend: Option<Slab>,
    pub out: Slab,
}

impl Loaded {
    pub fn new(rank: &Rank, c: &Case, data: &Data) -> Result<Loaded> {
        let r = rank.rank();
        let (k, n, m) = (c.k_of(r), c.n_of(r), c.m_of(r));
        let slab = |rows: usize, cols: usize, values: &[f64]| Slab::new(rank, rows, cols, c.gap, c.dtype, Some(values));
        let x = match c.op {
            Op::AllGatherGemm => slab(m.len(), c.k, &Data::part(&data.x, c.k, m.clone(), 0..c.k))?,
            _ if c.op.has_gemm() => slab(c.m, k.len(), &Data::part(&data.x, c.k, 0..c.m, k.clone()))?,
            Op::AllGather => slab(m.len(), c.n, &data.inputs[r])?,
            _ => slab(c.m, c.n, &data.inputs[r])?,
        };
        let gemm = c.op.has_gemm();
        let weight = gemm.then(|| slab(n.len(), k.len(), &Data::part(&data.weight, c.k, n.clone(), k.clone())));
        let bias = c
            .bias
            .then(|| Slab::new(rank, 1, n.len(), 0, c.dtype, Some(&data.bias[n.clone()])));
        let addend = c.addend.then(|| slab(c.m, c.n, &data.addends[r]));
        let (rows, cols) = c.part(r);
        let out = Slab::new(rank, rows.len(), cols.len(), c.gap, c.dtype, None)?;
        Ok(Loaded {
            x,
            weight: weight.transpose()?,
            bias: bias.transpose()?,
            addend: addend.transpose()?,
            out,
        })
    }

    pub fn operands(&mut self, m: usize) -> Result<Operands<'_>> {
        let Loaded {
            x,
            weight,
            bias,
            addend,
            out,
        } = self;
        Ok(Operands {
            m,
            x: x.mat()?,
            weight: weight.as_ref().map(Slab::mat).transpose()?,
            bias: bias.as_ref().map(Slab::mat).transpose()?,
            addend: addend.as_ref().map(Slab::mat).transpose()?,
            out: Out::To(out.mat_mut()?),
        })
    }

    pub fn launch(&mut self, plan: &Plan, m: usize) -> Result<()> {
        plan.launch(&self.operands(m)?)
    }
}

/// Heap bytes a rank at which every rank's plan just fits, by what a too small heap says is needed; no one-shot.
pub fn smallest_heap(node: &Node, c: &Case, path: Path) -> usize {
    let mut bytes = 300 << 10;
    for _ in 0..8 {
        let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(bytes);
        let made = node.group(c.world, &config);
        let planned = made.and_then(|ranks| ranks.iter().try_for_each(|r| r.plan(&c.spec(r.rank(), path)).map(drop)));
        match planned {
            Ok(()) => return bytes,
            Err(Error::HeapTooSmall { need, .. }) => bytes = need.max(bytes + 1),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no heap is large enough for {c:?}");
}

/// Launches the case on every rank of a group, in rank order, from this thread; every rank's result.
pub fn run_on(ranks: &[Rank], c: &Case, data: &Data, path: Path) -> Result<Vec<Vec<u8>>> {
    let plans: Vec<Plan> = ranks
        .iter()
        .map(|r| r.plan(&c.spec(r.rank(), path)))
        .collect::<Result<_>>()?;
    let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, c, data)).collect::<Result<_>>()?;
    for (plan, l) in plans.iter().zip(&mut loaded) {
        l.launch(plan, c.m)?;
    }
    // Every rank must be given its chance to finish before the first failure is returned.
    let ends: Vec<Result<()>> = ranks.iter().map(Rank::synchronize).collect();
    ends.into_iter().collect::<Result<Vec<_>>>()?;
    loaded.iter().map(|l| l.out.read()).collect()
}

/// A group sized for the case.
pub fn group_for(node: &Node, c: &Case) -> Result<Vec<Rank>> {
    let config = GroupConfig::default()
        .one_shot_bytes(8 << 10)
        .sized_for(&c.all_specs(), c.world)?;
    node.group(c.world, &config)
}

/// Runs a case from nothing on a node of its own.
pub fn run(c: &Case, path: Path, seed: u64) -> Result<Vec<Vec<u8>>> {
    let node = node(c.world, seed);
    let ranks = group_for(&node, c)?;
    run_on(&ranks, c, &Data::new(c), path)
}

/// What is wrong with the results: an element out of its bound, or ranks that differ where all have the same.
pub fn wrong(c: &Case, data: &Data, results: &[Vec<u8>]) -> Option<String> {
    let expected = data.expected(c);
    for (rank, bytes) in results.iter().enumerate() {
        let (rows, cols) = c.part(rank);
        let verdict = expected.compare(rows, cols, &reference::decode(c.dtype, bytes));
        if let Some(worst) = verdict.wrong {
            return Some(format!(
                "rank {rank}: {} elements wrong, worst {worst:?}",
                verdict.wrong_count
            ));
        }
    }
    let same = matches!(c.op, Op::GemmAllReduce | Op::AllReduce | Op::AllGather);
    (same && results.windows(2).any(|w| w[0] != w[1])).then(|| "ranks differ".to_string())
}

/// Panics if anything is wrong.
pub fn judge(c: &Case, data: &Data, results: &[Vec<u8>], what: &str) {
    if let Some(wrong) = wrong(c, data, results) {
        panic!("{what}: {c:?}: {wrong}");
    }
}

/// What the machine saw leave each rank must be what the kernels counted.
pub fn check_traffic(node: &Node, ranks: &[Rank]) {
    if node.driver().kind() != Kind::Sim {
        return;
    }
    for rank in ranks {
        let stats = rank.stats().unwrap();
        let seen = node.driver().observed_traffic(rank.place());
        assert_eq!(
            seen,
            Some((stats.bytes_sent, stats.signals_sent)),
            "rank {}",
            rank.rank()
        );
    }
}
