//! Values that the numerics contract fixes to the last bit.

use tileweave::Op;
use tileweave::reference::{self, decode};

use super::check::{Adder, parts};
use super::execute::Results;
use super::input::Problem;
use crate::failure::{Failure, Kind};

/// Where the contract fixes every value, nothing but that value is right: plain sums, which hold no GEMM, with what a tail
/// makes of them; and of any tail the normalised rows, given the updated residual.
pub fn check_exact(problem: &Problem, adder: Adder, results: &Results) -> Result<(), Failure> {
    let (shape, dtype) = (&problem.shape, problem.dtype);
    let plain = matches!(shape.op, Op::AllReduce | Op::ReduceScatter) && adder == Adder::Ranks;
    let sum = plain.then(|| reference::reduce_exactly(&parts(&decode(dtype, &problem.x), shape.ranks), dtype));
    let Some(tail) = &problem.tail else {
        return match sum {
            Some(sum) => same_values(problem, &results.y, &sum, "the sum in rank order"),
            None => Ok(()),
        };
    };
    let [residual, gamma] = [&tail.residual, &tail.gamma].map(|bytes| decode(dtype, bytes));
    let tail_of = |y: &[f64], r: &[f64]| reference::rms_norm_exactly(y, r, &gamma, tail.eps, shape.n, dtype);
    if let Some(sum) = sum {
        let (updated, _) = tail_of(&sum, &residual);
        same_values(
            problem,
            &results.residual,
            &updated,
            "the sum in rank order with the residual",
        )?;
    }
    for (y, updated) in results.y.iter().zip(&results.residual) {
        let updated = decode(dtype, updated);
        let (_, out) = tail_of(&updated, &vec![0.0; updated.len()]);
        same_values(
            problem,
            std::slice::from_ref(y),
            &out,
            "its updated residual, normalised in the promised order",
        )?;
    }
    Ok(())
}

fn same_values(problem: &Problem, results: &[Vec<u8>], exact: &[f64], what: &str) -> Result<(), Failure> {
    let (shape, dtype) = (&problem.shape, problem.dtype);
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
            let message = format!("rank {rank}'s result is not {what}: element {at} is {got}, expected {want}");
            return Err(Failure::new(Kind::WrongResult, message)
                .with("rank", rank)
                .with("got", got)
                .with("want", want));
        }
    }
    Ok(())
}
