//! What is run: an operation's sizes and options, and each rank's share of them.

use std::ops::Range;

use tileweave::{Axis, DType, Epilogue, Exchange, Layout, Mainloop, Op, OpSpec, Path, Tail, Want, Wire, reference};

/// What is run.
#[derive(Debug, Clone)]
pub struct Case {
    pub op: Op,
    pub world: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dtype: DType,
    pub layout: Layout,
    /// Of a plain all-gather.
    pub axis: Axis,
    pub wire: Wire,
    pub bias: bool,
    pub addend: bool,
    /// Residual and RMSNorm with this eps.
    pub tail: Option<f32>,
    /// A residual alone.
    pub residual: bool,
    /// Of all-gather + GEMM.
    pub epilogue: Epilogue,
    /// Whether the product is kept as it is before the epilogue.
    pub saved: bool,
    /// Elements between the rows of every matrix.
    pub gap: usize,
    pub data_seed: u64,
    pub mainloop: Option<Mainloop>,
    /// The rank whose operands lie where TMA cannot address them: x of an even one, the weight of an odd one.
    pub unaligned: Option<usize>,
    pub exchange: Option<Exchange>,
    /// CTAs that only reduce.
    pub reducers: usize,
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
            layout: Layout::Nt,
            axis: Axis::Rows,
            wire: Wire::Output,
            bias: false,
            addend: false,
            tail: None,
            residual: false,
            epilogue: Epilogue::None,
            saved: false,
            gap: 0,
            data_seed: 1,
            mainloop: None,
            unaligned: None,
            exchange: None,
            reducers: 0,
        }
    }

    pub fn layout(self, layout: Layout) -> Case {
        Case { layout, ..self }
    }

    /// An all-gather of columns.
    pub fn side_by_side(self) -> Case {
        Case {
            axis: Axis::Columns,
            ..self
        }
    }

    pub fn bias(self) -> Case {
        Case { bias: true, ..self }
    }

    pub fn addend(self) -> Case {
        Case { addend: true, ..self }
    }

    pub fn tail(self, eps: f32) -> Case {
        Case {
            tail: Some(eps),
            ..self
        }
    }

    pub fn residual(self) -> Case {
        Case { residual: true, ..self }
    }

    pub fn epilogue(self, epilogue: Epilogue) -> Case {
        Case { epilogue, ..self }
    }

    pub fn saved(self) -> Case {
        Case { saved: true, ..self }
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

    pub fn mainloop(self, mainloop: Mainloop) -> Case {
        Case {
            mainloop: Some(mainloop),
            ..self
        }
    }

    pub fn unaligned(self, rank: usize) -> Case {
        Case {
            unaligned: Some(rank),
            ..self
        }
    }

    pub fn exchange(self, exchange: Exchange) -> Case {
        Case {
            exchange: Some(exchange),
            ..self
        }
    }

    pub fn reducers(self, reducers: usize) -> Case {
        Case { reducers, ..self }
    }

    /// The routes this operation has.
    pub fn routes(&self) -> &'static [Path] {
        if self.op.has_gemm() {
            &[Path::Fused, Path::Unfused]
        } else {
            &[Path::Unfused]
        }
    }

    pub fn row_parallel(&self) -> bool {
        matches!(self.op, Op::GemmReduceScatter | Op::GemmAllReduce)
    }

    pub fn k_of(&self, rank: usize) -> Range<usize> {
        if self.row_parallel() {
            reference::chunk(self.k, self.world, rank)
        } else {
            0..self.k
        }
    }

    /// The columns that a rank brings: of the weight, or of x side by side.
    pub fn n_of(&self, rank: usize) -> Range<usize> {
        if self.epilogue == Epilogue::SwiGlu {
            let pairs = reference::chunk(self.n / 2, self.world, rank);
            2 * pairs.start..2 * pairs.end
        } else if self.op == Op::AllGatherGemm || self.axis == Axis::Columns {
            reference::chunk(self.n, self.world, rank)
        } else {
            0..self.n
        }
    }

    pub fn m_of(&self, rank: usize) -> Range<usize> {
        reference::chunk(self.m, self.world, rank)
    }

    /// Rows and columns of the x of a plain collective.
    pub fn input(&self, rank: usize) -> (usize, usize) {
        match (self.op, self.axis) {
            (Op::AllGather, Axis::Rows) => (self.m_of(rank).len(), self.n),
            _ => (self.m, self.n_of(rank).len()),
        }
    }

    /// The spec of a rank, for M up to this case's.
    pub fn spec(&self, rank: usize, path: Path) -> OpSpec {
        let spec = OpSpec::new(
            self.op,
            match self.op {
                Op::AllGatherGemm => self.n_of(rank).len(),
                _ => self.n,
            },
            self.k_of(rank).len(),
            self.m,
            self.dtype,
        )
        .layout(self.layout)
        .axis(self.axis)
        .epilogue(self.epilogue)
        .wire(self.wire)
        .bias(self.bias)
        .tail(match self.tail {
            Some(eps) => Tail::RmsNorm { eps },
            None if self.residual => Tail::Residual,
            None => Tail::None,
        })
        .route(Want::Exactly(path))
        .reducers(self.reducers);
        let spec = match self.mainloop {
            Some(mainloop) => spec.mainloop(mainloop),
            None => spec,
        };
        match self.exchange {
            Some(exchange) => spec.exchange(exchange),
            None => spec,
        }
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
            Op::AllGatherGemm => {
                let n = self.n_of(rank);
                (0..self.m, self.epilogue.columns(n.start)..self.epilogue.columns(n.end))
            }
            _ => (0..self.m, 0..self.n),
        }
    }
}
