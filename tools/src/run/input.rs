//! The operands of a run: random, or read from a file, checked against each other and against what was asked for.

use tileweave::{DType, Op};

use super::random::{self, Tensor};
use super::shape::Shape;
use super::tensors::{File, Found};
use crate::cli::{MAX_DIMENSION, RunArgs};
use crate::failure::Failure;

/// A problem's full, unsplit operands, row-major, little-endian.
#[derive(Debug)]
pub struct Problem {
    pub shape: Shape,
    pub dtype: DType,
    pub x: Vec<u8>,
    pub weight: Vec<u8>,
    pub bias: Option<Vec<u8>>,
    /// `[ranks, m, n]`.
    pub addend: Option<Vec<u8>>,
    pub tail: Option<Tail>,
}

/// Residual and RMSNorm behind an all-reduce.
#[derive(Debug)]
pub struct Tail {
    pub eps: f32,
    /// `[m, n]`, the same on every rank.
    pub residual: Vec<u8>,
    /// `[n]`.
    pub gamma: Vec<u8>,
}

const DEFAULT_M: usize = 64;
const DEFAULT_N: usize = 512;
const DEFAULT_K: usize = 512;

/// Makes or reads the operands. `ranks` is what the device offers where the user names no number; `simulated`: whether a
/// simulated node will run it.
pub fn problem(args: &RunArgs, ranks: usize, simulated: bool) -> Result<Problem, Failure> {
    match &args.input {
        Some(path) => from_file(args, ranks, simulated, &File::read(path)?),
        None => random(args, ranks, simulated),
    }
}

fn random(args: &RunArgs, ranks: usize, simulated: bool) -> Result<Problem, Failure> {
    let op = args.op;
    if args.bias && !op.has_gemm() {
        return Err(Failure::bad_value(
            "--bias",
            "given",
            &format!("an operation with a GEMM, not {}", op.name()),
        ));
    }
    let k = if op.has_gemm() { args.k.unwrap_or(DEFAULT_K) } else { 0 };
    let (m, n) = (args.m.unwrap_or(DEFAULT_M), args.n.unwrap_or(DEFAULT_N));
    let shape = Shape { op, ranks, m, n, k };
    if args.addend && !shape.reduces_gemm() {
        let expected = format!("gemm-reduce-scatter or gemm-all-reduce, not {}", op.name());
        return Err(Failure::bad_value("--addend", "given", &expected));
    }
    let dtype = args.dtype.unwrap_or(DType::Bf16);
    check_size(&shape, dtype, args.addend, args.residual_norm.is_some())?;
    check_rows(&shape, simulated)?;
    let draw = |tensor, count, scale| random::normal(dtype, args.seed, tensor, count, scale);
    let of_weight = 1.0 / (k.max(1) as f64).sqrt(); // results of x's own size
    Ok(Problem {
        shape,
        dtype,
        x: draw(Tensor::X, shape.x_dims().iter().product(), 1.0),
        weight: draw(Tensor::Weight, if op.has_gemm() { n * k } else { 0 }, of_weight),
        bias: args.bias.then(|| draw(Tensor::Bias, n, 1.0)),
        addend: args
            .addend
            .then(|| draw(Tensor::Addend, shape.addend_dims().iter().product(), 1.0)),
        tail: args.residual_norm.map(|eps| Tail {
            eps,
            residual: draw(Tensor::Residual, m * n, 1.0),
            gamma: draw(Tensor::Gamma, n, 1.0),
        }),
    })
}

fn from_file(args: &RunArgs, ranks: usize, simulated: bool, file: &File) -> Result<Problem, Failure> {
    let op = args.op;
    let x = file.tensor("x")?;
    let dtype = x.dtype()?;
    if let Some(asked) = args.dtype.filter(|asked| *asked != dtype) {
        return Err(Failure::bad_input(format!(
            "--dtype is {asked}: tensor `x` of {} is {dtype}",
            file.name()
        )));
    }
    let shape = if op.has_gemm() {
        let [m, k] = x.dims("[M, K]")?;
        let weight = file.tensor("weight")?;
        let [n, weight_k] = weight.dims("[N, K]")?;
        if weight_k != k {
            return Err(weight.wrong(format!("its K is {weight_k}: expected [N, {k}], x's K")));
        }
        Shape { op, ranks, m, n, k }
    } else {
        let [parts, m, n] = x.dims("[P, M, N]")?;
        if parts != ranks && args.common.ranks.is_some() {
            return Err(x.wrong(format!(
                "expected [{ranks}, M, N], one matrix for each of --ranks {ranks}"
            )));
        }
        if !(1..=16).contains(&parts) {
            return Err(x.wrong("expected [P, M, N] with one matrix per rank, 1 to 16".into()));
        }
        Shape {
            op,
            ranks: parts,
            m,
            n,
            k: 0,
        }
    };
    for (option, asked, there) in [
        ("--m", args.m, shape.m),
        ("--n", args.n, shape.n),
        ("--k", args.k, shape.k),
    ] {
        let meant = asked.filter(|_| option != "--k" || op.has_gemm());
        if let Some(asked) = meant.filter(|asked| *asked != there) {
            return Err(Failure::bad_value(
                option,
                asked,
                &format!("{there}, as in {}, or no such option", file.name()),
            ));
        }
        if there > MAX_DIMENSION {
            return Err(Failure::bad_value(
                &option[2..],
                there,
                &format!("at most {MAX_DIMENSION}"),
            ));
        }
    }
    let optional = |name: &str, wanted: bool, dims: &[usize], named: &str| -> Result<Option<Found<'_>>, Failure> {
        let Some(tensor) = file.optional(name)? else {
            return Ok(None);
        };
        if !wanted {
            return Err(tensor.wrong(format!("{} takes none: expected a file without it", op.name())));
        }
        tensor.expect(dtype, dims, "x", named)?;
        Ok(Some(tensor))
    };
    let addend = optional("addend", shape.reduces_gemm(), &shape.addend_dims(), "[P, M, N]")?;
    let bias = optional("bias", op.has_gemm(), &[shape.n], "[N]")?;
    let weight = optional("weight", op.has_gemm(), &[shape.n, shape.k], "[N, K]")?;
    let tail = args.residual_norm.map(|eps| -> Result<_, Failure> {
        let (residual, gamma) = (file.tensor("residual")?, file.tensor("gamma")?);
        residual.expect(dtype, &[shape.m, shape.n], "x", "[M, N]")?;
        gamma.expect(dtype, &[shape.n], "x", "[N]")?;
        Ok((eps, residual, gamma))
    });
    let tail = tail.transpose()?;
    for name in ["residual", "gamma"] {
        if let (None, Some(tensor)) = (&tail, file.optional(name)?) {
            return Err(tensor.wrong("--residual-norm is not given: expected it, or a file without the tensor".into()));
        }
    }
    check_size(&shape, dtype, addend.is_some(), tail.is_some())?;
    check_rows(&shape, simulated)?;
    let bytes = |tensor: Found<'_>| tensor.bytes().to_vec();
    Ok(Problem {
        shape,
        dtype,
        x: bytes(x),
        weight: weight.map(bytes).unwrap_or_default(),
        bias: bias.map(bytes),
        addend: addend.map(bytes),
        tail: tail.map(|(eps, residual, gamma)| Tail {
            eps,
            residual: bytes(residual),
            gamma: bytes(gamma),
        }),
    })
}

/// Rows that all ranks together move, beyond which a simulated node takes minutes even where a row has no bytes.
const MAX_SIMULATED_ROWS: usize = 1 << 25;

/// Refuses more rows than kernels can count, or than a simulated node finishes with.
fn check_rows(shape: &Shape, simulated: bool) -> Result<(), Failure> {
    let Shape { op, ranks, m, n, .. } = *shape;
    let (rows, cols) = shape.result();
    if rows > MAX_DIMENSION {
        let most = MAX_DIMENSION / ranks;
        let expected = format!(
            "at most {most}: {} on {ranks} ranks gives {ranks} times as many rows",
            op.name()
        );
        return Err(Failure::bad_value("--m", m, &expected));
    }
    // Whoever gathers goes through all the rows; the others through the result's elements, of which there may be none.
    let gathers = matches!(op, Op::AllGather | Op::AllGatherGemm);
    let (option, asked, longest) = match (rows, cols) {
        (rows, cols) if rows >= cols && (gathers || cols > 0) => ("--m", m, rows),
        (rows, cols) if cols > rows && rows > 0 => ("--n", n, cols),
        _ => return Ok(()),
    };
    let positions = longest.saturating_mul(ranks);
    if simulated && positions > MAX_SIMULATED_ROWS {
        let expected = format!(
            "sizes that the simulated node finishes with: {longest} on each of {ranks} ranks are {positions} positions, \
             more than {MAX_SIMULATED_ROWS}"
        );
        return Err(Failure::bad_value(option, asked, &expected));
    }
    Ok(())
}

/// Refuses what cannot fit before anything is allocated: running out of memory ends a process without a word.
fn check_size(shape: &Shape, dtype: DType, addend: bool, tail: bool) -> Result<(), Failure> {
    let need = shape.footprint(dtype.size(), addend, tail);
    let have = u128::from(available_memory());
    if need <= have {
        return Ok(());
    }
    let sizes = match shape.op {
        Op::ReduceScatter | Op::AllReduce | Op::AllGather => format!("--m {}, --n {}", shape.m, shape.n),
        _ => format!("--m {}, --n {}, --k {}", shape.m, shape.n, shape.k),
    };
    Err(Failure::bad_input(format!(
        "{sizes} on {} ranks needs about {need} bytes of host memory, and {have} are available: expected smaller sizes",
        shape.ranks
    )))
}

/// Bytes that can be had without swapping.
pub fn available_memory() -> u64 {
    memory("MemAvailable:")
}

/// All of the machine's memory, the same whichever process asks.
pub fn total_memory() -> u64 {
    memory("MemTotal:")
}

/// A line of what Linux tells of memory; where the system does not tell, what any machine for this has.
fn memory(name: &str) -> u64 {
    const ASSUMED: u64 = 16 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(ASSUMED, |kib| kib.saturating_mul(1024))
}
