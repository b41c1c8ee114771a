//! What an operation is, without its data.

use super::epilogue::Epilogue;
use super::heuristics::narrow;
use super::layout::{Axis, Layout};
use super::operation::Op;
use super::staging::MAX_GRID;
use super::tail::Tail;
use crate::abi;
use crate::dtype::{DType, Wire};
use crate::error::{Error, Result};
use crate::route::{Exchange, Want};

/// How a GEMM gets from operands to products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mainloop {
    /// cp.async and mma.sync (f32: FFMA): every GPU from sm_80 on, operands of any alignment.
    Portable,
    /// TMA and wgmma: sm_90a and the simulated node, bf16 and f16, operands that TMA can address.
    Hopper,
}

impl std::fmt::Display for Mainloop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mainloop::Portable => "portable",
            Mainloop::Hopper => "Hopper",
        })
    }
}

/// The widest row, in bytes, that is gathered.
const MAX_GATHERED_ROW: u64 = (1 << 28) - 16;

/// What a plan is made for: everything but the data and M.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OpSpec {
    /// The operation.
    pub op: Op,
    /// Columns of the output of this rank's GEMM, the same on every rank but for [`Op::AllGatherGemm`], where it is
    /// this rank's share. Plain collectives: columns of the result.
    pub n: usize,
    /// Depth of this rank's GEMM: its share of K for the operations that reduce (may differ between ranks, may be 0),
    /// all of it for [`Op::AllGatherGemm`]. Plain collectives: 0.
    pub k: usize,
    /// The largest M that will be launched. M counts global rows: those of all ranks together where they are split.
    pub max_m: usize,
    /// Type of x, weight, bias, addend and the output.
    pub dtype: DType,
    /// How x and the weight lie. GEMMs only, and never [`Layout::Tn`]; the same on every rank.
    pub layout: Layout,
    /// What is made of the product in the same kernel, on every rank alike. Other than [`Epilogue::None`] for
    /// [`Op::AllGatherGemm`] alone; n counts the product's columns.
    pub epilogue: Epilogue,
    /// Along which axis matrices are gathered. Other than [`Axis::Rows`] for [`Op::AllGather`] alone.
    pub axis: Axis,
    /// Type in which partials travel. The sums of one rank alone, of plain collectives and gathers do not depend on it.
    pub wire: Wire,
    /// Whether a bias `[n]` is added, once, after the sum. GEMMs only.
    pub bias: bool,
    /// What follows a sum over ranks in the same kernel.
    pub tail: Tail,
    /// What all ranks together have of that which may differ between them: of K for the operations that reduce, of N
    /// for [`Op::AllGatherGemm`]. The choice of a route looks at it, the same on every rank; `None`: the whole weight is
    /// taken for square, since a rank knows no other's share.
    pub whole: Option<usize>,
    /// The path asked for.
    pub route: Want,
    /// The mainloop asked for, on every rank alike; `None`: the crate chooses.
    pub mainloop: Option<Mainloop>,
    /// The columns of a Hopper block of 128 rows, 128 or 256, on every rank alike; `None`: the crate chooses.
    pub columns: Option<usize>,
    /// Whether Hopper CTAs work in pairs, on every rank alike; `None`: the crate chooses.
    pub pairs: Option<bool>,
    /// How values get from rank to rank, on every rank alike; `None`: the crate chooses.
    pub exchange: Option<Exchange>,
    /// The CTAs of a Hopper GEMM + all-reduce that only reduce, on every rank alike; 0: none, each CTA reduces beside
    /// its math; `None`: the crate chooses.
    pub reducers: Option<usize>,
}

impl OpSpec {
    /// Without bias, partials in the output's type, the crate choosing the route.
    pub fn new(op: Op, n: usize, k: usize, max_m: usize, dtype: DType) -> OpSpec {
        OpSpec {
            op,
            n,
            k,
            max_m,
            dtype,
            layout: Layout::Nt,
            epilogue: Epilogue::None,
            axis: Axis::Rows,
            wire: Wire::default(),
            bias: false,
            tail: Tail::None,
            whole: None,
            route: Want::Auto,
            mainloop: None,
            columns: None,
            pairs: None,
            exchange: None,
            reducers: None,
        }
    }

    /// With operands that lie so.
    pub fn layout(self, layout: Layout) -> OpSpec {
        OpSpec { layout, ..self }
    }

    /// With this made of the product.
    pub fn epilogue(self, epilogue: Epilogue) -> OpSpec {
        OpSpec { epilogue, ..self }
    }

    /// Gathered along this axis: with [`Axis::Columns`], rank r has x `[m, n_r]`, and every rank gets `[m, n]`.
    pub fn axis(self, axis: Axis) -> OpSpec {
        OpSpec { axis, ..self }
    }

    /// With partials in this type.
    pub fn wire(self, wire: Wire) -> OpSpec {
        OpSpec { wire, ..self }
    }

    /// With a bias.
    pub fn bias(self, bias: bool) -> OpSpec {
        OpSpec { bias, ..self }
    }

    /// With a tail.
    pub fn tail(self, tail: Tail) -> OpSpec {
        OpSpec { tail, ..self }
    }

    /// With so much of K (operations that reduce) or N ([`Op::AllGatherGemm`]) on all ranks together. To be told, on
    /// every rank, where shares differ and the crate chooses the route: else ranks may choose differently, which the
    /// first launch reports as a disagreement.
    pub fn whole(self, whole: usize) -> OpSpec {
        OpSpec {
            whole: Some(whole),
            ..self
        }
    }

    /// On this route.
    pub fn route(self, route: Want) -> OpSpec {
        OpSpec { route, ..self }
    }

    /// By this mainloop: for comparison and for tests. Every rank asks for the same. Where it cannot serve, a plan or a
    /// launch fails and names the limit.
    pub fn mainloop(self, mainloop: Mainloop) -> OpSpec {
        OpSpec {
            mainloop: Some(mainloop),
            ..self
        }
    }

    /// In Hopper blocks of so many columns, 128 or 256, by CTAs in pairs or alone: for benchmarks, over the crate's own
    /// choice. Not for one-shot all-reduces, which have one kind of block. Every rank asks for the same.
    pub fn blocks(self, columns: usize, pairs: bool) -> OpSpec {
        OpSpec {
            columns: Some(columns),
            pairs: Some(pairs),
            ..self
        }
    }

    /// By this exchange: for comparison and for tests. Every rank asks for the same. Anything but [`Exchange::Push`]
    /// leaves one-shot all-reduces out, which only push. Where the machine, the group or the operation has it not, a
    /// plan fails and says why.
    pub fn exchange(self, exchange: Exchange) -> OpSpec {
        OpSpec {
            exchange: Some(exchange),
            ..self
        }
    }

    /// With so many CTAs of a Hopper GEMM + all-reduce that only reduce, an even number, or 0 for none: for benchmarks,
    /// over the crate's own choice. They come out of the CTAs that are resident, of which the others compute. Without
    /// effect where the kernel is another: a portable one, or a one-shot. Every rank asks for the same.
    pub fn reducers(self, reducers: usize) -> OpSpec {
        OpSpec {
            reducers: Some(reducers),
            ..self
        }
    }

    /// The type partials have on the wire and on the way from a GEMM to its collective.
    pub(crate) fn wire_dtype(&self, world: usize) -> DType {
        match self.op {
            // One rank's sum is its own partial: nothing travels, so nothing is rounded before the output.
            Op::GemmReduceScatter | Op::GemmAllReduce if world == 1 => DType::F32,
            Op::GemmReduceScatter | Op::GemmAllReduce => self.wire.dtype(self.dtype),
            _ => self.dtype,
        }
    }

    /// Checks what does not depend on a group.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("n", self.n), ("k", self.k), ("max_m", self.max_m)] {
            if value >= 1 << 31 {
                return Err(Error::bad_argument(name, value, "less than 2^31"));
            }
        }
        // Kernels count tiles, and padded ones too, in 32 bits.
        let elements = self.max_m as u128 * self.n as u128;
        if elements >= 1 << 42 {
            return Err(Error::bad_argument("max_m * n", elements, "less than 2^42"));
        }
        // A gather counts bytes within a row, and 16-byte vectors within 128 rows, in 32 bits.
        let (gathered, width) = match self.op {
            Op::AllGather => ("n", self.n),
            Op::AllGatherGemm => ("k", self.k),
            _ => ("", 0),
        };
        if width as u64 * self.dtype.size() as u64 > MAX_GATHERED_ROW {
            let expected = format!(
                "at most {}: a gathered row is at most 2^28 - 16 bytes",
                MAX_GATHERED_ROW / self.dtype.size() as u64
            );
            return Err(Error::bad_argument(gathered, width, expected));
        }
        if self.epilogue.is_some() && self.op != Op::AllGatherGemm {
            let expected = match self.op.has_gemm() {
                true => format!("none: what {} multiplies is not the sum yet", self.op),
                false => format!("none: {} has no GEMM", self.op),
            };
            return Err(Error::bad_argument("epilogue", self.epilogue, expected));
        }
        self.epilogue.check(self.n)?;
        if self.axis == Axis::Columns {
            if self.op != Op::AllGather {
                let expected = format!("rows: {} does not gather matrices side by side", self.op);
                return Err(Error::bad_argument("axis", self.axis, expected));
            }
            // Kernels count the rows of all ranks, in 32 bits.
            let most = (1 << 31) / abi::TW_MAX_RANKS as usize;
            if self.max_m >= most {
                let expected = format!("less than {most} where matrices are gathered side by side");
                return Err(Error::bad_argument("max_m", self.max_m, expected));
            }
        }
        if !self.op.has_gemm() && self.k != 0 {
            return Err(Error::bad_argument("k", self.k, format!("0: {} has no GEMM", self.op)));
        }
        if !self.op.has_gemm() && self.layout != Layout::Nt {
            return Err(Error::bad_argument(
                "layout",
                self.layout,
                format!("NT: {} has no GEMM", self.op),
            ));
        }
        if self.layout == Layout::Tn {
            let expected =
                "NT or NN: x is split, gathered and sent by its rows; a rank's own GEMM takes TN (Rank::gemm)";
            return Err(Error::bad_argument("layout", self.layout, expected));
        }
        if let Some(columns) = self.columns.filter(|columns| ![128, 256].contains(columns)) {
            return Err(Error::bad_argument("columns", columns, "128 or 256"));
        }
        if self.columns == Some(256) && narrow(self) {
            let expected = format!("128: {} has no wider blocks with an epilogue", self.op);
            return Err(Error::bad_argument("columns", 256, expected));
        }
        if let Some(reducers) = self.reducers.filter(|reducers| *reducers != 0) {
            if self.op != Op::GemmAllReduce {
                let expected = format!("0: {} has no CTAs that only reduce", self.op);
                return Err(Error::bad_argument("reducers", reducers, expected));
            }
            let most = MAX_GRID as usize - 2;
            if !reducers.is_multiple_of(2) || reducers > most {
                let expected = format!("an even number up to {most}: CTAs may work in pairs");
                return Err(Error::bad_argument("reducers", reducers, expected));
            }
        }
        self.tail.check(self.op)?;
        if !self.op.has_gemm() && self.bias {
            return Err(Error::bad_argument(
                "bias",
                true,
                format!("false: {} takes no bias", self.op),
            ));
        }
        Ok(())
    }
}

impl std::fmt::Display for OpSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (N = {}", self.op, self.n)?;
        if self.op.has_gemm() {
            write!(f, ", K = {}", self.k)?;
        }
        write!(f, ", {}", self.dtype)?;
        if self.layout != Layout::Nt {
            write!(f, ", {}", self.layout)?;
        }
        if self.epilogue.is_some() {
            write!(f, ", {}", self.epilogue)?;
        }
        if self.axis != Axis::Rows {
            f.write_str(", side by side")?;
        }
        write!(f, "){}", self.tail)
    }
}

#[cfg(test)]
mod tests;
