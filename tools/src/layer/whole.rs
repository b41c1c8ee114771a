//! Results put together from the ranks' parts, which have to have the same bits where several ranks have the same elements.

use std::collections::BTreeMap;

use tileweave::layer::checkpoint::Part;

use crate::failure::{Failure, Kind};

/// Whole tensors by name.
type Tensors = BTreeMap<String, Vec<u8>>;

/// Tensors that are being put together, all of them of elements of `size` bytes.
pub struct Whole {
    size: usize,
    tensors: Tensors,
    /// In every byte of an element 1 + the rank that it is from; 0: none yet.
    from: Tensors,
}

impl Whole {
    pub fn new(size: usize) -> Whole {
        Whole {
            size,
            tensors: Tensors::new(),
            from: Tensors::new(),
        }
    }

    /// Puts a rank's part to its place.
    pub fn put(&mut self, rank: usize, part: &Part, bytes: &[u8]) -> Result<(), Failure> {
        let size = self.size;
        for (tensor, shape) in part.tensors() {
            // Also where there is nothing to put: of a tensor without elements everything is there.
            let count = shape.iter().product::<usize>() * size;
            for tensors in [&mut self.tensors, &mut self.from] {
                tensors.entry(tensor.into()).or_insert_with(|| vec![0; count]);
            }
        }
        let there = part.cut(size, |tensor| self.tensors.get(tensor).map(Vec::as_slice))?;
        let from = part.cut(size, |tensor| self.from.get(tensor).map(Vec::as_slice))?;
        if let Some(at) = (0..bytes.len()).find(|at| from[*at] > 0 && there[*at] != bytes[*at]) {
            let names: Vec<String> = part.tensors().map(|(tensor, _)| format!("`{tensor}`")).collect();
            let (element, other) = (at / size, from[at] - 1);
            let message = format!(
                "rank {rank} and rank {other} have different bits of {}, first at element {element} of rank {rank}'s part",
                names.join(", ")
            );
            let failure = Failure::new(Kind::WrongResult, message);
            return Err(failure.with("rank", rank).with("peer", other));
        }
        part.put(size, bytes, &mut self.tensors)?;
        part.put(size, &vec![rank as u8 + 1; bytes.len()], &mut self.from)?;
        Ok(())
    }

    /// A tensor of which every element is there.
    pub fn tensor(&self, name: &str) -> Option<&[u8]> {
        let from = self.from.get(name)?;
        let tensor = self.tensors.get(name)?;
        from.iter().all(|from| *from > 0).then_some(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_and_compared() {
        let part = |rows| Part::rows("w", &[3, 2], rows).expect("within");
        let mut whole = Whole::new(1);
        whole.put(0, &part(0..2), &[1, 2, 3, 4]).expect("new");
        assert_eq!(whole.tensor("w"), None, "a row is missing");
        whole.put(1, &part(1..3), &[3, 4, 5, 6]).expect("the same");
        assert_eq!(whole.tensor("w"), Some(&[1, 2, 3, 4, 5, 6][..]));
        let failure = whole.put(2, &part(1..3), &[3, 4, 5, 7]).expect_err("other bits");
        assert_eq!(failure.kind, Kind::WrongResult);
        let message = "rank 2 and rank 1 have different bits of `w`, first at element 3 of rank 2's part";
        assert_eq!(failure.message, message);
        whole
            .put(0, &Part::rows("none", &[0, 2], 0..0).expect("empty"), &[])
            .expect("nothing");
        assert_eq!(whole.tensor("none"), Some(&[][..]));
    }
}
