//! A linear layer on a group: operands dealt to the ranks, both passes, results.

use std::ops::Range;

use tileweave::layer::{Backward, ColumnParallelLinear, Forward, LinearSpec, RowParallelLinear, Sends, Split};
use tileweave::{Epilogue, GroupConfig, Node, Rank, Result, reference};

use super::common::{Data, Slab, check_traffic, node};
use super::reference::Numbers;

/// What is run.
#[derive(Debug, Clone)]
pub struct Linear {
    pub split: Split,
    pub world: usize,
    pub m: usize,
    pub spec: LinearSpec,
    pub accumulate: bool,
    /// Elements between the rows of every matrix.
    pub gap: usize,
    pub data_seed: u64,
}

/// Which passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Forward, saving what backward needs; backward with all gradients.
    Training,
    /// Forward alone, saving nothing; backward for dx alone.
    Inference,
}

/// What the ranks were left with, and sent.
pub struct Results {
    ranks: Vec<OfRank>,
    pub forward_bytes: Vec<u64>,
    pub backward_bytes: Vec<u64>,
}

struct OfRank {
    y: Vec<u8>,
    dx: Vec<u8>,
    /// In training, with an epilogue.
    product: Option<Vec<u8>>,
    /// In training.
    dweight: Option<Vec<u8>>,
    dbias: Option<Vec<u8>>,
}

/// Results put together; alike on ranks that have the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    pub y: Vec<u8>,
    pub dx: Vec<u8>,
    pub dweight: Vec<u8>,
    pub dbias: Vec<u8>,
}

pub struct Group {
    pub node: Node,
    pub ranks: Vec<Rank>,
}

/// Rows and columns of a part of a matrix.
type Part = (Range<usize>, Range<usize>);

/// Where a rank's parts are.
struct Parts {
    x: Part,
    weight: Part,
    bias: Range<usize>,
    y: Part,
    /// y's, or with an epilogue the product's.
    dy: Part,
}

enum Layer {
    Column(ColumnParallelLinear),
    Row(RowParallelLinear),
}

/// A rank's operands.
struct Loaded {
    layer: Layer,
    x: Slab,
    weight: Slab,
    bias: Slab,
    gathered: Slab,
    /// The product in front of an epilogue.
    product: Slab,
    residual: Slab,
    y: Slab,
    dy: Slab,
    dx: Slab,
    dweight: Slab,
    dbias: Slab,
}

impl Linear {
    pub fn group(&self, seed: u64, one_shot_bytes: usize) -> Group {
        let node = node(self.world, seed);
        let config = GroupConfig::default()
            .one_shot_bytes(one_shot_bytes)
            .sized_for(&self.spec.operations(self.split, self.world), self.world)
            .unwrap();
        let ranks = node.group(self.world, &config).unwrap();
        Group { node, ranks }
    }

    /// Columns of the product for each of y.
    pub fn products_each(&self) -> usize {
        if self.spec.epilogue == Epilogue::SwiGlu { 2 } else { 1 }
    }

    fn parts(&self, rank: usize) -> Parts {
        let (m, inputs, outputs) = (0..self.m, 0..self.spec.in_features, 0..self.spec.out_features);
        let part = self.spec.part(self.split, self.world, rank);
        let rows = match self.spec.sequence_parallel {
            true => reference::chunk(self.m, self.world, rank),
            false => m.clone(),
        };
        match self.split {
            Split::Column => {
                let dy = (m.clone(), if self.spec.gather_output { outputs } else { part.clone() });
                let of = self.products_each();
                Parts {
                    x: (rows, inputs.clone()),
                    weight: (part.clone(), inputs),
                    bias: part,
                    y: (m, dy.1.start / of..dy.1.end / of),
                    dy,
                }
            }
            Split::Row => Parts {
                x: (m, if self.spec.split_input { inputs } else { part.clone() }),
                weight: (outputs.clone(), part),
                bias: outputs.clone(),
                y: (rows.clone(), outputs.clone()),
                dy: (rows, outputs),
            },
        }
    }

    fn load(&self, rank: &Rank, numbers: &Numbers) -> Result<Loaded> {
        let (inputs, outputs) = (self.spec.in_features, self.spec.out_features);
        let parts = self.parts(rank.rank());
        let slab = |values: Option<&[f64]>, width: usize, (rows, cols): &Part| {
            let values = values.map(|values| Data::part(values, width, rows.clone(), cols.clone()));
            Slab::new(
                rank,
                rows.len(),
                cols.len(),
                self.gap,
                self.spec.dtype,
                values.as_deref(),
            )
        };
        let before = |values| if self.accumulate { Some(values) } else { None };
        let bias = &(0..1, parts.bias);
        Ok(Loaded {
            layer: match self.split {
                Split::Column => Layer::Column(ColumnParallelLinear::new(rank, &self.spec)?),
                Split::Row => Layer::Row(RowParallelLinear::new(rank, &self.spec)?),
            },
            x: slab(Some(&numbers.x), inputs, &parts.x)?,
            weight: slab(Some(&numbers.weight), inputs, &parts.weight)?,
            bias: slab(Some(&numbers.bias), outputs, bias)?,
            gathered: slab(None, inputs, &(0..self.m, 0..inputs))?,
            product: slab(None, outputs, &parts.dy)?,
            residual: slab(Some(&numbers.residual), outputs, &parts.dy)?,
            y: slab(None, outputs, &parts.y)?,
            dy: slab(Some(&numbers.dy), outputs, &parts.dy)?,
            dx: slab(None, inputs, &parts.x)?,
            dweight: slab(before(numbers.dweight.as_slice()), inputs, &parts.weight)?,
            dbias: slab(before(numbers.dbias.as_slice()), outputs, bias)?,
        })
    }

    fn forward(&self, l: &mut Loaded, passes: Passes) -> Result<()> {
        let saves = self.split == Split::Column && self.spec.sequence_parallel && passes == Passes::Training;
        let pass = Forward {
            bias: if self.spec.bias { Some(l.bias.mat()?) } else { None },
            gathered: if saves { Some(l.gathered.mat_mut()?) } else { None },
            saved: if passes == Passes::Training && self.spec.epilogue != Epilogue::None {
                Some(l.product.mat_mut()?)
            } else {
                None
            },
            residual: if self.spec.residual {
                Some(l.residual.mat()?)
            } else {
                None
            },
            ..Forward::new(self.m, l.x.mat()?, l.weight.mat()?, l.y.mat_mut()?)
        };
        match &mut l.layer {
            Layer::Column(layer) => layer.forward(pass),
            Layer::Row(layer) => layer.forward(pass),
        }
    }

    fn backward(&self, l: &mut Loaded, passes: Passes) -> Result<()> {
        let training = passes == Passes::Training;
        let x = match (self.split, self.spec.sequence_parallel) {
            (Split::Column, true) => l.gathered.mat()?,
            _ => l.x.mat()?,
        };
        let pass = Backward {
            m: self.m,
            dy: l.dy.mat()?,
            x: training.then_some(x),
            weight: Some(l.weight.mat()?),
            dx: Some(l.dx.mat_mut()?),
            dweight: if training { Some(l.dweight.mat_mut()?) } else { None },
            dbias: if training && self.spec.bias {
                Some(l.dbias.mat_mut()?)
            } else {
                None
            },
            accumulate: self.accumulate,
        };
        match &mut l.layer {
            Layer::Column(layer) => layer.backward(pass),
            Layer::Row(layer) => layer.backward(pass),
        }
    }

    /// Both passes on all ranks; what they sent must be what the layers said.
    pub fn run(&self, group: &Group, passes: Passes) -> Results {
        let numbers = Numbers::new(self);
        let ranks = &group.ranks;
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| self.load(r, &numbers).unwrap()).collect();
        let mut sent = |pass: &mut dyn FnMut(&mut Loaded) -> Result<()>| -> Vec<u64> {
            let before: Vec<u64> = ranks.iter().map(|r| r.stats().bytes_sent()).collect();
            loaded.iter_mut().for_each(|l| pass(l).unwrap());
            ranks.iter().for_each(|r| r.synchronize().unwrap());
            let after = ranks.iter().map(|r| r.stats().bytes_sent());
            after.zip(before).map(|(after, before)| after - before).collect()
        };
        let forward_bytes = sent(&mut |l| self.forward(l, passes));
        let backward_bytes = sent(&mut |l| self.backward(l, passes));
        let training = passes == Passes::Training;
        for (r, l) in loaded.iter().enumerate() {
            let stated = match &l.layer {
                Layer::Column(layer) => [layer.forward_sends(self.m), layer.backward_sends(self.m)],
                Layer::Row(layer) => [layer.forward_sends(self.m), layer.backward_sends(self.m)],
            };
            let stated = stated.map(|sends| Sends::total(&sends));
            let counted = [Some(forward_bytes[r]), Some(backward_bytes[r])];
            assert_eq!(stated, counted, "rank {r}, {passes:?} of {self:?}");
        }
        check_traffic(&group.node, ranks);
        let of_rank = |l: &Loaded| OfRank {
            y: l.y.read().unwrap(),
            dx: l.dx.read().unwrap(),
            product: (training && self.spec.epilogue != Epilogue::None).then(|| l.product.read().unwrap()),
            dweight: training.then(|| l.dweight.read().unwrap()),
            dbias: (training && self.spec.bias).then(|| l.dbias.read().unwrap()),
        };
        Results {
            ranks: loaded.iter().map(of_rank).collect(),
            forward_bytes,
            backward_bytes,
        }
    }

    pub fn judge(&self, results: &Results) {
        let [product, dx, dweight, dbias] = Numbers::new(self).expected(self);
        let y = match self.spec.epilogue {
            Epilogue::Gelu => product.gelu(),
            Epilogue::SwiGlu => product.swiglu(),
            _ => product.clone(),
        };
        for (r, of_rank) in results.ranks.iter().enumerate() {
            let parts = self.parts(r);
            let right = |name: &str, expected: &reference::Expected, part: Part, got: &[u8]| {
                let got = reference::decode(self.spec.dtype, got);
                let wrong = expected.compare(part.0, part.1, &got).wrong;
                assert!(wrong.is_none(), "{name} of rank {r}, {self:?}: {wrong:?}");
            };
            right("y", &y, parts.y, &of_rank.y);
            right("dx", &dx, parts.x, &of_rank.dx);
            if let Some(got) = &of_rank.product {
                right("the product", &product, parts.dy, got);
            }
            if let Some(got) = &of_rank.dweight {
                right("dweight", &dweight, parts.weight, got);
            }
            if let Some(got) = &of_rank.dbias {
                right("dbias", &dbias, (0..1, parts.bias), got);
            }
        }
    }
}

impl Results {
    /// Of training passes.
    pub fn whole(&self, c: &Linear) -> Whole {
        let size = c.spec.dtype.size();
        let put = |rows: usize, cols: usize, part: &dyn Fn(&Parts) -> Part, of: &dyn Fn(&OfRank) -> Vec<u8>| {
            let mut whole: Vec<Option<u8>> = vec![None; rows * cols * size];
            for (r, of_rank) in self.ranks.iter().enumerate() {
                let (rows, columns) = part(&c.parts(r));
                let bytes = of(of_rank);
                let width = columns.len() * size;
                for (at, row) in rows.enumerate() {
                    let to = (row * cols + columns.start) * size;
                    for (i, byte) in bytes[at * width..][..width].iter().enumerate() {
                        let known = whole[to + i].get_or_insert(*byte);
                        assert_eq!(known, byte, "rank {r} has it differently");
                    }
                }
            }
            whole.into_iter().map(Option::unwrap).collect()
        };
        let (inputs, outputs) = (c.spec.in_features, c.spec.out_features);
        Whole {
            y: put(c.m, outputs / c.products_each(), &|p| p.y.clone(), &|r| r.y.clone()),
            dx: put(c.m, inputs, &|p| p.x.clone(), &|r| r.dx.clone()),
            dweight: put(outputs, inputs, &|p| p.weight.clone(), &|r| r.dweight.clone().unwrap()),
            dbias: put(1, outputs, &|p| (0..1, p.bias.clone()), &|r| r.dbias.clone().unwrap()),
        }
    }
}
