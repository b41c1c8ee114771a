//! Judges a run: every element against the f64 reference, and the bits that the numerics contract promises.

use tileweave::reference::{self, Comparison, Expected, Gemm, decode};
use tileweave::{Op, Wire};

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

/// `results`: one packed block of bytes per rank. `other`: the same by the other route, where bits are promised. `by`: the
/// wire, and whether the switch has added, so that the ranks' bits are equal and no others.
pub fn judge(
    problem: &Problem,
    by: (Wire, bool),
    results: &[Vec<u8>],
    other: Option<&[Vec<u8>]>,
) -> Result<Verdict, Failure> {
    let (shape, dtype) = (&problem.shape, problem.dtype);
    let expected = expect(problem, by);
    let mut comparison = Comparison::default();
    for (rank, bytes) in results.iter().enumerate() {
        let block = shape.result_of(rank);
        let part = expected.compare(block.rows, block.cols, &decode(dtype, bytes));
        if let Some(wrong) = part.wrong {
            let message = format!(
                "rank {rank}'s result is wrong in {} of {} elements; at [{}, {}] of the global result it is {}: expected {} +- {:.3e}",
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
    if !by.1 {
        check_exact(problem, results)?;
    }
    let across = shape
        .result_is_replicated()
        .then(|| results.iter().position(|result| result != &results[0]));
    if let Some(Some(rank)) = across {
        return Err(differ(
            &format!("rank {rank}'s result and rank 0's"),
            &results[rank],
            &results[0],
            dtype.size(),
        ));
    }
    for (rank, (ours, other)) in results.iter().zip(other.unwrap_or_default()).enumerate() {
        if ours != other {
            return Err(differ(
                &format!("rank {rank}'s fused and unfused results"),
                ours,
                other,
                dtype.size(),
            ));
        }
    }
    let scale = if expected.scale() > 0.0 { expected.scale() } else { 1.0 };
    Ok(Verdict {
        max_abs_err: comparison.max_abs_err,
        max_rel_err: comparison.max_abs_err / scale,
        bound: expected.largest_bound() / scale,
        bitwise_equal_unfused: other.map(|_| true),
        bitwise_equal_across_ranks: across.map(|_| true),
    })
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
fn expect(problem: &Problem, (wire, in_switch): (Wire, bool)) -> Expected {
    let (shape, dtype) = (&problem.shape, problem.dtype);
    let x = decode(dtype, &problem.x);
    if !shape.op.has_gemm() {
        let parts = parts(&x, shape.ranks);
        return match shape.op {
            Op::AllGather => reference::gather(&parts, shape.ranks * shape.m, shape.n, dtype),
            _ if in_switch => reference::reduce_in_switch(&parts, shape.m, shape.n, dtype),
            _ => reference::reduce(&parts, shape.m, shape.n, dtype),
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
        gemm.gathered(dtype)
    } else if in_switch {
        gemm.reduce_in_switch(shape.ranks, dtype, wire)
    } else {
        gemm.reduce(shape.ranks, dtype, wire)
    }
}

fn parts(all: &[f64], ranks: usize) -> Vec<&[f64]> {
    let each = all.len() / ranks;
    (0..ranks).map(|rank| &all[rank * each..(rank + 1) * each]).collect()
}

/// Plain sums hold no GEMM: the contract fixes every value, and nothing but that value is right.
fn check_exact(problem: &Problem, results: &[Vec<u8>]) -> Result<(), Failure> {
    let (shape, dtype) = (&problem.shape, problem.dtype);
    if !matches!(shape.op, Op::AllReduce | Op::ReduceScatter) {
        return Ok(());
    }
    let x = decode(dtype, &problem.x);
    let exact = reference::reduce_exactly(&parts(&x, shape.ranks), dtype);
    for (rank, bytes) in results.iter().enumerate() {
        let block = shape.result_of(rank);
        let got = decode(dtype, bytes);
        let want = &exact[block.rows.start * shape.n..block.rows.end * shape.n];
        let wrong = got
            .iter()
            .zip(want)
            .position(|(got, want)| got != want && !(got.is_nan() && want.is_nan()));
        if let Some(at) = wrong {
            let (got, want) = (got[at], want[at]);
            let message =
                format!("rank {rank}'s result is not the sum in rank order: element {at} is {got}, expected {want}");
            return Err(Failure::new(Kind::WrongResult, message)
                .with("rank", rank)
                .with("got", got)
                .with("want", want));
        }
    }
    Ok(())
}

/// FNV-1a over every rank's result, each led by its length: equal for equal results, whatever computed them.
pub fn digest(results: &[Vec<u8>]) -> String {
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
        }
    }

    fn bytes(values: &[f64]) -> Vec<u8> {
        encode(DType::F32, values)
    }

    fn judge_sum(op: Op, results: &[Vec<u8>]) -> Result<Verdict, Failure> {
        judge(&problem(op), (Wire::Output, false), results, None)
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
            (Wire::Output, false),
            &[all.clone(), all],
            Some(&other),
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
        };
        let results = [bytes(&[0.0, 1.0]), bytes(&[-0.0, 1.0])];
        let failure = judge(&problem, (Wire::Output, false), &results, None).expect_err("bits differ");
        assert!(
            failure.message.contains("rank 1's result and rank 0's differ"),
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
