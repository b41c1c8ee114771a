//! Layers that are no block, each on a group of its own with whole tensors dealt to the ranks: both passes, results put together.

use std::collections::BTreeMap;
use std::ops::Range;

use tileweave::layer::*;
use tileweave::{Buffer, DType, GroupConfig, OpSpec, Rank, chunk, reference};

use super::block::{Tensors, Whole};
use super::common::{Slab, node};

/// Ranks whose heap has room for these operations.
fn group(world: usize, operations: &[OpSpec]) -> Vec<Rank> {
    let config = GroupConfig::default().sized_for(operations, world).unwrap();
    node(world, 3).group(world, &config).unwrap()
}

fn finished(ranks: &[Rank]) {
    ranks.iter().for_each(|rank| rank.synchronize().unwrap());
}

/// A rank's block of a whole matrix.
struct Place {
    dtype: DType,
    /// Of the whole matrix.
    shape: [usize; 2],
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Place {
    fn rows(whole: &Whole, rows: Range<usize>, dtype: DType) -> Place {
        Place::block(whole, rows, 0..whole.cols, dtype)
    }

    fn block(whole: &Whole, rows: Range<usize>, cols: Range<usize>, dtype: DType) -> Place {
        let shape = [whole.rows, whole.cols];
        Place {
            dtype,
            shape,
            rows,
            cols,
        }
    }

    fn load(&self, rank: &Rank, whole: Option<&Whole>) -> Slab {
        let row = |whole: &Whole, row: usize| {
            let first = row * whole.cols;
            whole.values[first + self.cols.start..first + self.cols.end].to_vec()
        };
        let values = whole.map(|whole| self.rows.clone().flat_map(|i| row(whole, i)).collect::<Vec<f64>>());
        Slab::new(rank, self.rows.len(), self.cols.len(), 0, self.dtype, values.as_deref()).unwrap()
    }
}

/// Results that are being put together.
#[derive(Default)]
struct Results(BTreeMap<String, (usize, usize, Vec<Option<f64>>)>);

impl Results {
    fn put(&mut self, name: &str, place: &Place, slab: &Slab) {
        let [rows, cols] = place.shape;
        let entry = self
            .0
            .entry(name.into())
            .or_insert((rows, cols, vec![None; rows * cols]));
        let got = reference::decode(place.dtype, &slab.read().unwrap());
        let elements = place
            .rows
            .clone()
            .flat_map(|i| place.cols.clone().map(move |j| i * cols + j));
        for (at, got) in elements.zip(got) {
            let known = *entry.2[at].get_or_insert(got);
            assert_eq!(known.to_bits(), got.to_bits(), "{name}: ranks differ at element {at}");
        }
    }

    fn whole(self) -> Tensors {
        let whole = |(name, (rows, cols, values)): (String, (usize, usize, Vec<Option<f64>>))| {
            let values = values
                .into_iter()
                .map(|value| value.unwrap_or_else(|| panic!("all of {name}")));
            let values = values.collect();
            (name.clone(), Whole { rows, cols, values })
        };
        self.0.into_iter().map(whole).collect()
    }
}

/// Rows of what lies between layers.
fn rows(options: &Options, m: usize, world: usize, rank: usize) -> Range<usize> {
    match options.sequence_parallel {
        true => chunk(m, world, rank),
        false => 0..m,
    }
}

/// A column-parallel layer and a row-parallel one, both with a bias: `fc1`, `fc2`.
pub fn pair(t: &Tensors, world: usize, options: Options) -> Tensors {
    let (m, d, f, dtype) = (t["x"].rows, t["x"].cols, t["fc1.weight"].rows, options.dtype);
    let linear =
        |inputs, outputs| LinearSpec::new(inputs, outputs, m, dtype).sequence_parallel(options.sequence_parallel);
    let (first, second) = (linear(d, f), linear(f, d));
    let operations = [
        first.operations(Split::Column, world),
        second.operations(Split::Row, world),
    ]
    .concat();
    let ranks = group(world, &operations);
    let mut all = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let (own, part) = (rows(&options, m, world, r), chunk(f, world, r));
        let stream = || Place::rows(&t["x"], own.clone(), dtype);
        let hidden = Place {
            dtype,
            shape: [m, f],
            rows: 0..m,
            cols: part.clone(),
        };
        let places = [
            ("fc1.weight", Place::rows(&t["fc1.weight"], part.clone(), dtype)),
            ("fc1.bias", Place::block(&t["fc1.bias"], 0..1, part.clone(), dtype)),
            ("fc2.weight", Place::block(&t["fc2.weight"], 0..d, part.clone(), dtype)),
            ("fc2.bias", Place::rows(&t["fc2.bias"], 0..1, dtype)),
        ];
        let loaded = places.map(|(name, place)| {
            let [value, gradient] = [Some(&t[name]), None].map(|whole| place.load(rank, whole));
            (name, place, value, gradient)
        });
        all.push((
            ColumnParallelLinear::new(rank, &first).unwrap(),
            RowParallelLinear::new(rank, &second).unwrap(),
            loaded,
            [Some(&t["x"]), Some(&t["dy"]), None, None].map(|whole| stream().load(rank, whole)),
            [(); 3].map(|()| hidden.load(rank, None)),
            stream(),
        ));
    }
    // x as all ranks have it, or as the forward pass has gathered it.
    let mut gathered: Vec<Slab> = (ranks.iter())
        .map(|rank| Place::rows(&t["x"], 0..m, dtype).load(rank, None))
        .collect();
    for ((column, row, loaded, [x, _, y, _], [h, ..], _), gathered) in all.iter_mut().zip(&mut gathered) {
        let [w1, b1, w2, b2] = [0, 1, 2, 3].map(|i| loaded[i].2.mat().unwrap());
        column
            .forward(Forward {
                bias: Some(b1),
                gathered: options.sequence_parallel.then(|| gathered.mat_mut().unwrap()),
                ..Forward::new(m, x.mat().unwrap(), w1, h.mat_mut().unwrap())
            })
            .unwrap();
        row.forward(Forward {
            bias: Some(b2),
            ..Forward::new(m, h.mat().unwrap(), w2, y.mat_mut().unwrap())
        })
        .unwrap();
    }
    finished(&ranks);
    for ((column, row, loaded, [x, dy, _, dx], [h, dh, _], _), gathered) in all.iter_mut().zip(&gathered) {
        let [(.., w1, dw1), (.., db1), (.., w2, dw2), (.., db2)] = loaded;
        row.backward(Backward {
            x: Some(h.mat().unwrap()),
            weight: Some(w2.mat().unwrap()),
            dx: Some(dh.mat_mut().unwrap()),
            dweight: Some(dw2.mat_mut().unwrap()),
            dbias: Some(db2.mat_mut().unwrap()),
            ..Backward::new(m, dy.mat().unwrap())
        })
        .unwrap();
        let x = if options.sequence_parallel {
            gathered.mat()
        } else {
            x.mat()
        };
        column
            .backward(Backward {
                x: Some(x.unwrap()),
                weight: Some(w1.mat().unwrap()),
                dx: Some(dx.mat_mut().unwrap()),
                dweight: Some(dw1.mat_mut().unwrap()),
                dbias: Some(db1.mat_mut().unwrap()),
                ..Backward::new(m, dh.mat().unwrap())
            })
            .unwrap();
    }
    finished(&ranks);
    let mut results = Results::default();
    for (_, _, loaded, [_, _, y, dx], _, stream) in &all {
        results.put("y", stream, y);
        results.put("dx", stream, dx);
        for (name, place, _, gradient) in loaded {
            results.put(&format!("d{name}"), place, gradient);
        }
    }
    results.whole()
}

/// `weight`, and `bias` of a LayerNorm.
pub fn norm(t: &Tensors, world: usize, spec: &NormSpec) -> Tensors {
    let (m, options) = (t["x"].rows, spec.options);
    let ranks = group(world, &spec.operations());
    let mut results = Results::default();
    let mut all = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let stream = Place::rows(&t["x"], rows(&options, m, world, r), options.dtype);
        let row = Place::rows(&t["weight"], 0..1, options.dtype);
        let layer = ParallelNorm::new(rank, spec).unwrap();
        let mut saved = layer.saved().unwrap();
        let [x, dy, mut y, mut dx] = [Some(&t["x"]), Some(&t["dy"]), None, None].map(|whole| stream.load(rank, whole));
        let (gamma, beta) = (
            row.load(rank, Some(&t["weight"])),
            t.get("bias").map(|beta| row.load(rank, Some(beta))),
        );
        let (mut dgamma, mut dbeta) = (row.load(rank, None), t.get("bias").map(|_| row.load(rank, None)));
        let parameters = NormParameters {
            gamma: gamma.mat().unwrap(),
            beta: beta.as_ref().map(|beta| beta.mat().unwrap()),
        };
        let (x_mat, y_mat) = (x.mat().unwrap(), y.mat_mut().unwrap());
        let pass = NormForward {
            m,
            x: x_mat,
            parameters,
            y: y_mat,
        };
        layer.forward(pass, &mut saved).unwrap();
        let pass = NormBackward {
            m,
            x: x_mat,
            parameters,
            dy: dy.mat().unwrap(),
            add: None,
            dx: Some(dx.mat_mut().unwrap()),
            gradients: gradients(&mut dgamma, &mut dbeta),
            accumulate: false,
        };
        layer.backward(pass, &mut saved).unwrap();
        results.put("y", &stream, &y);
        results.put("dx", &stream, &dx);
        all.push((layer, row, dgamma, dbeta));
    }
    let mut spaces: Vec<Workspace> = all.iter().map(|(layer, ..)| layer.workspace().unwrap()).collect();
    for ((layer, _, dgamma, dbeta), space) in all.iter_mut().zip(&mut spaces) {
        layer.finish_gradients(gradients(dgamma, dbeta), space).unwrap();
    }
    finished(&ranks);
    for (_, row, dgamma, dbeta) in &all {
        results.put("dweight", row, dgamma);
        if let Some(dbeta) = dbeta {
            results.put("dbias", row, dbeta);
        }
    }
    results.whole()
}

fn gradients<'a>(gamma: &'a mut Slab, beta: &'a mut Option<Slab>) -> NormGradients<'a> {
    NormGradients {
        gamma: Some(gamma.mat_mut().unwrap()),
        beta: beta.as_mut().map(|beta| beta.mat_mut().unwrap()),
    }
}

fn upload(rank: &Rank, ids: &[i64]) -> Buffer {
    let mut buffer = rank.alloc(ids.len() * 8).unwrap();
    buffer.upload(ids).unwrap();
    buffer
}

/// `weight`: the table.
pub fn embedding(t: &Tensors, ids: &[i64], world: usize, spec: &EmbeddingSpec) -> Tensors {
    let (m, options, table) = (ids.len(), spec.options, &t["weight"]);
    let ranks = group(world, &spec.operations());
    let mut all = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let stream = Place::rows(&t["dy"], rows(&options, m, world, r), options.dtype);
        let part = Place::rows(table, spec.part(world, r), options.dtype);
        let layer = VocabParallelEmbedding::new(rank, spec).unwrap();
        let (space, ids) = (layer.workspace().unwrap(), upload(rank, ids));
        let [dy, y] = [Some(&t["dy"]), None].map(|whole| stream.load(rank, whole));
        let [value, gradient] = [Some(table), None].map(|whole| part.load(rank, whole));
        all.push((layer, space, ids, (stream, y, dy), (part, value, gradient)));
    }
    for (layer, space, ids, (_, y, _), (_, table, _)) in &mut all {
        let (ids, table, y) = (ids.ids(m).unwrap(), table.mat().unwrap(), y.mat_mut().unwrap());
        layer.forward(EmbeddingForward { ids, table, y }, space).unwrap();
    }
    for (layer, space, ids, (_, _, dy), (_, _, dtable)) in &mut all {
        let (ids, dy, dtable) = (ids.ids(m).unwrap(), dy.mat().unwrap(), dtable.mat_mut().unwrap());
        let accumulate = false;
        layer
            .backward(
                EmbeddingBackward {
                    ids,
                    dy,
                    dtable,
                    accumulate,
                },
                space,
            )
            .unwrap();
    }
    finished(&ranks);
    let mut results = Results::default();
    for (layer, _, _, (stream, y, _), (part, _, gradient)) in &mut all {
        layer.check_ids().unwrap();
        results.put("y", stream, y);
        results.put("dweight", part, gradient);
    }
    results.whole()
}

/// Logits by a column-parallel `weight`, then the loss of every token; dy is of the losses.
pub fn loss(t: &Tensors, targets: &[i64], world: usize, spec: &CrossEntropySpec) -> Tensors {
    let (options, table) = (spec.options, &t["weight"]);
    let (m, d, dtype) = (t["x"].rows, t["x"].cols, options.dtype);
    let linear = LinearSpec::new(d, spec.vocabulary, m, dtype).bias(false);
    let linear = linear.sequence_parallel(options.sequence_parallel);
    let operations = [linear.operations(Split::Column, world), spec.operations(world)].concat();
    let ranks = group(world, &operations);
    let mut all = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let stream = Place::rows(&t["x"], rows(&options, m, world, r), dtype);
        let part = Place::rows(table, spec.part(world, r), dtype);
        let logits = Place {
            dtype,
            shape: [m, spec.vocabulary],
            rows: 0..m,
            cols: spec.part(world, r),
        };
        let token = Place::rows(&t["dy"], 0..m, DType::F32);
        let layer = VocabParallelCrossEntropy::new(rank, spec).unwrap();
        let (saved, space) = (layer.saved().unwrap(), layer.workspace().unwrap());
        let head = ColumnParallelLinear::new(rank, &linear).unwrap();
        let [x, dx] = [Some(&t["x"]), None].map(|whole| stream.load(rank, whole));
        let gathered = Place::rows(&t["x"], 0..m, dtype).load(rank, None);
        let [value, gradient] = [Some(table), None].map(|whole| part.load(rank, whole));
        let [own, d_own] = [(); 2].map(|()| logits.load(rank, None));
        let [dy, y] = [Some(&t["dy"]), None].map(|whole| token.load(rank, whole));
        all.push((
            (head, layer, saved, space, upload(rank, targets)),
            (stream, x, dx, gathered),
            (part, value, gradient),
            (own, d_own),
            (token, y, dy),
        ));
    }
    for ((head, layer, saved, space, ids), (_, x, _, gathered), (_, weight, _), (own, _), (_, y, _)) in &mut all {
        let pass = Forward::new(m, x.mat().unwrap(), weight.mat().unwrap(), own.mat_mut().unwrap());
        let gathered = options.sequence_parallel.then(|| gathered.mat_mut().unwrap());
        head.forward(Forward { gathered, ..pass }).unwrap();
        let (logits, targets, loss) = (own.mat().unwrap(), ids.ids(m).unwrap(), y.mat_mut().unwrap());
        layer
            .forward(CrossEntropyForward { logits, targets, loss }, saved, space)
            .unwrap();
    }
    finished(&ranks);
    for ((head, layer, saved, _, ids), (_, x, dx, gathered), (_, weight, dweight), (own, d_own), (_, _, dy)) in &mut all
    {
        let (logits, targets, dloss) = (own.mat().unwrap(), ids.ids(m).unwrap(), dy.mat().unwrap());
        let dlogits = d_own.mat_mut().unwrap();
        layer
            .backward(
                CrossEntropyBackward {
                    logits,
                    targets,
                    dloss,
                    dlogits,
                },
                saved,
            )
            .unwrap();
        let x = if options.sequence_parallel {
            gathered.mat()
        } else {
            x.mat()
        };
        let pass = Backward {
            x: Some(x.unwrap()),
            weight: Some(weight.mat().unwrap()),
            dx: Some(dx.mat_mut().unwrap()),
            dweight: Some(dweight.mat_mut().unwrap()),
            ..Backward::new(m, d_own.mat().unwrap())
        };
        head.backward(pass).unwrap();
    }
    finished(&ranks);
    let mut results = Results::default();
    for (_, (stream, _, dx, _), (part, _, gradient), _, (token, y, _)) in &all {
        results.put("y", token, y);
        results.put("dx", stream, dx);
        results.put("dweight", part, gradient);
    }
    results.whole()
}
