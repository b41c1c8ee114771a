//! Judges a layer: every element of every result against the f64 reference, and the bytes that were sent against those that were stated.

use std::collections::BTreeMap;

use tileweave::Wire;
use tileweave::layer::Sends;
use tileweave::reference::decode;
use tileweave::reference::layer::{Setting, expect};

use super::problem::Problem;
use super::report::Judged;
use super::whole::Whole;
use crate::failure::{Failure, Kind};

/// Results that are whole, by name, and how far off each is.
pub struct Verdict {
    /// Shape and bytes.
    pub results: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    pub judged: BTreeMap<String, Judged>,
}

pub fn judge(
    problem: &Problem,
    (world, sequence_parallel): (usize, bool),
    values: &Whole,
    gradients: &Whole,
) -> Result<Verdict, Failure> {
    let setting = Setting {
        dtype: problem.dtype,
        wire: Wire::default(),
        world,
        sequence_parallel,
    };
    let mut verdict = Verdict {
        results: BTreeMap::new(),
        judged: BTreeMap::new(),
    };
    for (name, expected) in expect(&problem.kind.reference(), &problem.given(), &setting) {
        let bytes = match name.strip_prefix('d') {
            Some(of) if name != "y" => gradients.tensor(of),
            _ => values.tensor(&name),
        };
        let Some(bytes) = bytes else {
            let message = format!("`{name}` is not whole: no rank has some of its elements");
            return Err(Failure::new(Kind::WrongResult, message).with("tensor", name));
        };
        let got = decode(problem.dtype, bytes);
        let compared = expected.compare(0..expected.rows, 0..expected.cols, &got);
        if let Some(wrong) = compared.wrong {
            let message = format!(
                "`{name}` is wrong in {} of {} elements; at [{}, {}] it is {}: expected {} +- {:.3e}",
                compared.wrong_count,
                got.len(),
                wrong.row,
                wrong.col,
                wrong.got,
                wrong.want,
                wrong.bound
            );
            return Err(Failure::new(Kind::WrongResult, message)
                .with("tensor", name)
                .with("row", wrong.row)
                .with("col", wrong.col)
                .with("got", wrong.got)
                .with("want", wrong.want)
                .with("bound", wrong.bound)
                .with("wrong_elements", compared.wrong_count));
        }
        // A tensor that is nothing but rounding (of k's bias, which no softmax sees) has no magnitude to be stated in.
        let (scale, bound) = (expected.scale(), expected.largest_bound());
        let scale = if scale > bound { scale } else { 1.0 };
        let judged = Judged {
            max_rel_err: compared.max_abs_err / scale,
            bound: bound / scale,
        };
        let shape = match name.strip_prefix('d').and_then(|of| problem.tensors.get(of)) {
            Some(tensor) => tensor.shape.clone(),
            None => vec![expected.rows, expected.cols],
        };
        verdict.results.insert(name.clone(), (shape, bytes.to_vec()));
        verdict.judged.insert(name, judged);
    }
    Ok(verdict)
}

/// What a rank sent in a pass is what its layer said that it would send.
pub fn as_stated(rank: usize, pass: &str, sent: u64, stated: &[Sends]) -> Result<(), Failure> {
    match Sends::total(stated) {
        Some(stated) if stated != sent => {
            let message = format!("rank {rank} sent {sent} bytes in {pass}, and its layer stated {stated}");
            let failure = Failure::new(Kind::WrongResult, message).with("rank", rank);
            Err(failure.with("bytes_sent", sent).with("bytes_stated", stated))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tileweave::Op;

    #[test]
    fn bytes_that_were_not_stated_are_wrong() {
        let stated = [10, 20].map(|bytes| Sends {
            op: Op::AllGather,
            bytes: Some(bytes),
        });
        assert!(as_stated(0, "the forward pass", 30, &stated).is_ok());
        let failure = as_stated(2, "the forward pass", 31, &stated).expect_err("a byte more");
        assert_eq!(failure.kind, Kind::WrongResult);
        let message = "rank 2 sent 31 bytes in the forward pass, and its layer stated 30";
        assert_eq!(failure.message, message);
        // Another library's are not known.
        let unknown = [Sends {
            op: Op::AllGather,
            bytes: None,
        }];
        assert!(as_stated(0, "the forward pass", 31, &unknown).is_ok());
    }
}
