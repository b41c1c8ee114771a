//! Judges a run: every element against the f64 reference, and the bits that the numerics contract promises.

use tileweave::reference::{self, Comparison, Expected, Gemm, decode};
use tileweave::{Op, Wire};

use super::exact::check_exact;
use super::execute::Results;
use super::input::Problem;
use crate::failure::{Failure, Kind};

/// What was found; every promise kept.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub max_abs_err: f64,
    /// Relative to the reference's largest magnitude, as is `bound`.
    pub max_rel_err: f64,
    /// The largest elementwise bound.
    pub bound: f64,
    /// `None`: not promised.
    pub bitwise_equal_unfused: Option<bool>,
    pub bitwise_equal_across_ranks: Option<bool>,
}

/// Who added up the partials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adder {
    /// The ranks' kernels: every bit is promised.
    Ranks,
    /// The switch: the ranks' bits are equal, and no others.
    Switch,
    /// NCCL: no bits are promised.
    Nccl,
}

/// `other`: the results by the other route, where bits are promised. `by`: the wire, and who added.
pub fn judge(
    problem: &Problem,
    by: (Wire, Adder),
    results: &Results,
    other: Option<&Results>,
) -> Result<Verdict, Failure> {
    let mut expected = expect(problem, by);
    if let Some(tail) = &problem.tail {
        let [residual, gamma] = [&tail.residual, &tail.gamma].map(|bytes| decode(problem.dtype, bytes));
        let made = expected.rms_norm(&residual, &gamma, tail.eps);
        compare(problem, &made.residual, &results.residual, "updated residual")?;
        expected = made.out;
    }
    let comparison = compare(problem, &expected, &results.y, "result")?;
    check_exact(problem, by.1, results)?;
    // NCCL promises nothing of sums; what it only gathers is everywhere the same.
    let replicated = problem.shape.result_is_replicated() && (by.1 != Adder::Nccl || !problem.shape.op.reduces());
    for (what, parts) in [("result", &results.y), ("updated residual", &results.residual)] {
        check_bits(
            problem,
            what,
            parts,
            replicated,
            other.map(|other| match what {
                "result" => &other.y,
                _ => &other.residual,
            }),
        )?;
    }
    let scale = if expected.scale() > 0.0 { expected.scale() } else { 1.0 };
    Ok(Verdict {
        max_abs_err: comparison.max_abs_err,
        max_rel_err: comparison.max_abs_err / scale,
        bound: expected.largest_bound() / scale,
        bitwise_equal_unfused: other.map(|_| true),
        bitwise_equal_across_ranks: replicated.then_some(true),
    })
}

/// Every rank's part against the reference.
fn compare(problem: &Problem, expected: &Expected, parts: &[Vec<u8>], what: &str) -> Result<Comparison, Failure> {
    let dtype = problem.dtype;
    let mut comparison = Comparison::default();
    for (rank, bytes) in parts.iter().enumerate() {
        let block = problem.shape.result_of(rank);
        let part = expected.compare(block.rows, block.cols, &decode(dtype, bytes));
        if let Some(wrong) = part.wrong {
            let message = format!(
                "rank {rank}'s {what} is wrong in {} of {} elements; at [{}, {}] of the global result it is {}: expected {} +- {:.3e}",
                part.wrong_count,
                bytes.len() / dtype.size(),
                wrong.row,
                wrong.col,
                wrong.got,
                wrong.want,
                wrong.bound
            );
            return Err(Failure::new(Kind::WrongResult, message)
                .with("rank", rank)
                .with("row", wrong.row)
                .with("col", wrong.col)
                .with("got", wrong.got)
                .with("want", wrong.want)
                .with("bound", wrong.bound)
                .with("wrong_elements", part.wrong_count));
        }
        comparison.merge(part);
    }
    Ok(comparison)
}

/// Equal bits, across ranks where all hold the same, and across routes.
fn check_bits(
    problem: &Problem,
    what: &str,
    parts: &[Vec<u8>],
    replicated: bool,
    other: Option<&Vec<Vec<u8>>>,
) -> Result<(), Failure> {
    let element = problem.dtype.size();
    if let Some(rank) = parts.iter().position(|part| replicated && part != &parts[0]) {
        let what = format!("rank {rank}'s {what} and rank 0's");
        return Err(differ(&what, &parts[rank], &parts[0], element));
    }
    let pairs = parts.iter().zip(other.into_iter().flatten());
    match pairs.enumerate().find(|(_, (ours, other))| ours != other) {
        Some((rank, (ours, other))) => {
            let what = format!("rank {rank}'s fused and unfused {what}s");
            Err(differ(&what, ours, other, element))
        }
        None => Ok(()),
    }
}

/// A promise of equal bits that was not kept.
fn differ(what: &str, ours: &[u8], theirs: &[u8], element: usize) -> Failure {
    let at = ours
        .iter()
        .zip(theirs)
        .position(|(a, b)| a != b)
        .map(|byte| byte / element);
    let count = ours
        .chunks(element)
        .zip(theirs.chunks(element))
        .filter(|(a, b)| a != b)
        .count();
    let message = format!(
        "{what} differ in {count} elements, first at element {}",
        at.unwrap_or(ours.len() / element)
    );
    Failure::new(Kind::WrongResult, message)
}

/// The global result in f64.
fn expect(problem: &Problem, (wire, adder): (Wire, Adder)) -> Expected {
    let (shape, dtype) = (&problem.shape, problem.dtype);
    let x = decode(dtype, &problem.x);
    if !shape.op.has_gemm() {
        let parts = parts(&x, shape.ranks);
        return match shape.op {
            Op::AllGather => reference::gather(&parts, shape.ranks * shape.m, shape.n, dtype),
            _ => match adder {
                Adder::Ranks => reference::reduce(&parts, shape.m, shape.n, dtype),
                Adder::Switch => reference::reduce_in_switch(&parts, shape.m, shape.n, dtype),
                Adder::Nccl => reference::reduce_by_nccl(&parts, shape.m, shape.n, dtype),
            },
        };
    }
    let weight = decode(dtype, &problem.weight);
    let bias = problem.bias.as_ref().map(|bias| decode(dtype, bias));
    let addend = problem.addend.as_ref().map(|addend| decode(dtype, addend));
    let gemm = Gemm {
        m: shape.m,
        n: shape.n,
        k: shape.k,
        x: &x,
        weight: &weight,
        bias: bias.as_deref(),
        addends: &addend
            .as_ref()
            .map(|addend| parts(addend, shape.ranks))
            .unwrap_or_default(),
    };
    if shape.op == Op::AllGatherGemm {
        return gemm.gathered(dtype);
    }
    match adder {
        Adder::Ranks => gemm.reduce(shape.ranks, dtype, wire),
        Adder::Switch => gemm.reduce_in_switch(shape.ranks, dtype, wire),
        Adder::Nccl => gemm.reduce_by_nccl(shape.ranks, dtype),
    }
}

pub(super) fn parts(all: &[f64], ranks: usize) -> Vec<&[f64]> {
    let each = all.len() / ranks;
    (0..ranks).map(|rank| &all[rank * each..(rank + 1) * each]).collect()
}

/// FNV-1a over every rank's result, each led by its length: equal for equal results, whatever computed them.
pub fn digest<'a>(results: impl IntoIterator<Item = &'a Vec<u8>>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for result in results {
        eat(&(result.len() as u64).to_le_bytes());
        eat(result);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::input::Tail;
    use crate::run::shape::Shape;
    use tileweave::DType;
    use tileweave::reference::encode;

    /// Two ranks; the sum is [11, 22, 33, 1].
    fn problem(op: Op) -> Problem {
        let x = encode(DType::F32, &[1.0, 2.0, 3.0, -39.0, 10.0, 20.0, 30.0, 40.0]);
        let shape = Shape {
            op,
            ranks: 2,
            m: 2,
            n: 2,
            k: 0,
        };
        Problem {
            shape,
            dtype: DType::F32,
            x,
            weight: Vec::new(),
            bias: None,
            addend: None,
            tail: None,
        }
    }

    fn bytes(values: &[f64]) -> Vec<u8> {
        encode(DType::F32, values)
    }

    fn of(y: &[Vec<u8>]) -> Results {
        Results {
            y: y.to_vec(),
            residual: Vec::new(),
        }
    }

    fn judge_sum(op: Op, results: &[Vec<u8>]) -> Result<Verdict, Failure> {
        judge(&problem(op), (Wire::Output, Adder::Ranks), &of(results), None)
    }

    #[test]
    fn right_results_pass() {
        let all = bytes(&[11.0, 22.0, 33.0, 1.0]);
        let verdict = judge_sum(Op::AllReduce, &[all.clone(), all]).expect("right");
        assert_eq!(
            (verdict.bitwise_equal_across_ranks, verdict.bitwise_equal_unfused),
            (Some(true), None)
        );
        let verdict = judge_sum(Op::ReduceScatter, &[bytes(&[11.0, 22.0]), bytes(&[33.0, 1.0])]).expect("right");
        assert_eq!(verdict.bitwise_equal_across_ranks, None);
    }

    #[test]
    fn every_kind_of_wrong_is_found() {
        let all = bytes(&[11.0, 22.0, 33.0, 1.0]);
        let off = bytes(&[11.0, 22.0, 34.0, 1.0]);
        let nearly = bytes(&[11.0, 22.0, 33.0, f64::from(1f32.next_up())]);
        for (results, named) in [
            (
                vec![all.clone(), off],
                "rank 1's result is wrong in 1 of 4 elements; at [1, 0]",
            ),
            (vec![nearly.clone(), nearly], "not the sum in rank order"),
            (vec![bytes(&[11.0]), all.clone()], "rank 0's result is wrong"),
        ] {
            let failure = judge_sum(Op::AllReduce, &results).expect_err("wrong");
            assert_eq!(failure.kind, Kind::WrongResult);
            assert!(failure.message.contains(named), "{}", failure.message);
        }
        let other = vec![all.clone(), bytes(&[11.0, 22.0, 33.0, 2.0])];
        let failure = judge(
            &problem(Op::AllReduce),
            (Wire::Output, Adder::Ranks),
            &of(&[all.clone(), all]),
            Some(&of(&other)),
        )
        .expect_err("routes");
        assert!(
            failure
                .message
                .contains("rank 1's fused and unfused results differ in 1 elements"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn ranks_must_agree_to_the_bit() {
        // 0 and -0 are equal numbers and different bits.
        let shape = Shape {
            op: Op::AllGather,
            ranks: 2,
            m: 1,
            n: 1,
            k: 0,
        };
        let x = bytes(&[0.0, 1.0]);
        let problem = Problem {
            shape,
            dtype: DType::F32,
            x,
            weight: Vec::new(),
            bias: None,
            addend: None,
            tail: None,
        };
        let results = [bytes(&[0.0, 1.0]), bytes(&[-0.0, 1.0])];
        let failure = judge(&problem, (Wire::Output, Adder::Ranks), &of(&results), None).expect_err("bits differ");
        assert!(
            failure.message.contains("rank 1's result and rank 0's differ"),
            "{}",
            failure.message
        );
    }

    /// The sums with a residual of ones are [12, 23] and [34, 2].
    #[test]
    fn a_tail_is_checked_in_both_its_results() {
        let mean = [(144.0 + 529.0) / 2.0, (34.0 * 34.0 + 4.0) / 2.0];
        let mut problem = problem(Op::AllReduce);
        problem.tail = Some(Tail {
            eps: 0.25,
            residual: bytes(&[1.0; 4]),
            gamma: bytes(&[1.0, 0.5]),
        });
        let h = [12.0f32, 23.0, 34.0, 2.0];
        let y: Vec<f64> = (0..4)
            .map(|i| f64::from(h[i] * (1.0 / (mean[i / 2] as f32 + 0.25).sqrt()) * [1.0, 0.5][i % 2]))
            .collect();
        let h = h.map(f64::from);
        let judge_tail = |y: &[f64], h: &[f64]| {
            let (y, residual) = (vec![bytes(y); 2], vec![bytes(h); 2]);
            judge(&problem, (Wire::Output, Adder::Ranks), &Results { y, residual }, None)
        };
        assert!(judge_tail(&y, &h).expect("right").max_rel_err < 1e-6);
        let mut off = h;
        off[1] = 23.5;
        let failure = judge_tail(&y, &off).expect_err("residual");
        assert!(
            failure.message.contains("rank 0's updated residual is wrong in 1 of 4"),
            "{}",
            failure.message
        );
        let mut nearly = y.clone();
        nearly[2] = f64::from((y[2] as f32).next_up());
        let failure = judge_tail(&nearly, &h).expect_err("order");
        assert!(
            failure.message.contains("normalised in the promised order"),
            "{}",
            failure.message
        );
        nearly[2] = 2.0 * y[2];
        let failure = judge_tail(&nearly, &h).expect_err("result");
        assert!(
            failure.message.contains("rank 0's result is wrong in 1 of 4"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn digests_see_bytes_and_where_ranks_end() {
        assert_eq!(digest(&[]), "cbf29ce484222325");
        assert_ne!(digest(&[vec![1, 2], vec![3]]), digest(&[vec![1], vec![2, 3]]));
        assert_ne!(digest(&[vec![1]]), digest(&[vec![2]]));
    }
}
