//! A decoder's steps as CUDA graphs: for each batch size 64 row-parallel layers are captured once, and from then on a
//! step is one launch of a graph. Ranks have a thread each; they meet on the host between uploading their graphs and the
//! first launch, since both may wait for a device whose kernels wait for another rank.
//!
//!     cargo run --release --example 03_graphs

use std::sync::{Arc, Barrier};
use std::time::Duration;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, GraphExec, Stream};
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Operands, Plan, Rank, Result};

const WORLD: usize = 2;
const LAYERS: usize = 64;
const WIDTH: usize = 64; // columns of every layer's input and output
const BUCKETS: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];

/// One rank's part of the model. Each layer multiplies this rank's columns of what the layer before left.
struct Model {
    rank: Rank,
    plan: Plan,
    weights: Vec<Buffer>,
    /// Layers read one and write the other, in turns.
    states: [Buffer; 2],
}

impl Model {
    fn load(rank: &Rank, spec: &OpSpec) -> Result<Model> {
        let (share, element) = (spec.k, spec.dtype.size());
        let weight = |layer: usize| {
            // Column j of the state moves to column j + 1 in even layers, and j + 5 in odd ones.
            let by = if layer.is_multiple_of(2) { 1 } else { 2 };
            let mut weight = vec![half::bf16::ZERO; WIDTH * share];
            for own in 0..share {
                let column = rank.rank() * share + own;
                weight[(column + by) % WIDTH * share + own] = half::bf16::ONE;
            }
            let mut buffer = rank.alloc(weight.len() * element)?;
            buffer.upload(&weight)?;
            Ok(buffer)
        };
        let state = || rank.alloc(spec.max_m * WIDTH * element);
        Ok(Model {
            rank: rank.clone(),
            plan: rank.plan(spec)?,
            weights: (0..LAYERS).map(weight).collect::<Result<_>>()?,
            states: [state()?, state()?],
        })
    }

    /// Enqueues all layers on `m` rows: eager launches, or captured where the stream captures. The call is the same.
    fn step(&mut self, m: usize) -> Result<()> {
        let OpSpec { n, k, dtype, .. } = *self.plan.spec();
        for (layer, weight) in self.weights.iter().enumerate() {
            let [a, b] = &mut self.states;
            let (from, to) = if layer.is_multiple_of(2) { (a, b) } else { (b, a) };
            let x = from.mat_at(self.rank.rank() * k, m, k, WIDTH, dtype)?;
            let operands = Operands::gemm(m, x, weight.mat(n, k, dtype)?, to.mat_mut(m, n, dtype)?);
            self.plan.launch(&operands)?;
        }
        Ok(())
    }

    /// A graph of all layers on `m` rows. A runtime makes it by its own calls on its own stream.
    fn capture(&mut self, driver: &dyn Driver, m: usize) -> Result<GraphExec> {
        let stream: Stream = self.rank.stream();
        driver.stream_begin_capture(stream)?;
        let enqueued = self.step(m);
        let graph = driver.stream_end_capture(stream);
        enqueued?;
        let graph = graph?;
        let exec = driver.graph_instantiate(graph, stream)?;
        driver.graph_destroy(graph)?;
        driver.graph_upload(exec, stream)?;
        Ok(exec)
    }
}

fn run(mut model: Model, node: &Node, attached: &Barrier) -> Result<u64> {
    let (driver, stream) = (node.driver(), model.rank.stream());
    let _driving = node.attach_thread();
    attached.wait();
    let graphs = BUCKETS
        .iter()
        .map(|m| model.capture(&**driver, *m))
        .collect::<Result<Vec<_>>>()?;
    model.rank.host_barrier(Duration::from_secs(60))?;

    // Requests come and go: a batch runs in the smallest bucket that holds it.
    for batch in [1, 3, 8, 12, 40, 64, 2] {
        let bucket = BUCKETS.partition_point(|rows| *rows < batch);
        let input: Vec<_> = (0..BUCKETS[bucket] * WIDTH)
            .map(|i| half::bf16::from_f32(((batch + i) % 200) as f32))
            .collect();
        model.states[0].upload(&input)?;
        driver.graph_launch(graphs[bucket], stream)?;
        // A replay that failed says so here: no launch is called that could.
        model.rank.synchronize()?;
        let output = model.states[0].to_vec::<half::bf16>(input.len())?;
        let moved = LAYERS / 2 * 3;
        for (i, value) in output.iter().enumerate() {
            let (row, column) = (i / WIDTH, i % WIDTH);
            assert_eq!(*value, input[row * WIDTH + (column + WIDTH - moved % WIDTH) % WIDTH]);
        }
        if model.rank.rank() == 0 {
            let rows = BUCKETS[bucket];
            println!(
                "batch of {batch}: bucket {rows}, {LAYERS} layers, {}",
                model.plan.route(rows)
            );
        }
    }
    for graph in graphs {
        driver.graph_exec_destroy(graph)?;
    }
    Ok(model.rank.stats().operations())
}

/// The example.
pub fn main() -> Result<()> {
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(WORLD, 0))?));
    let most = BUCKETS[BUCKETS.len() - 1];
    let spec = OpSpec::new(Op::GemmAllReduce, WIDTH, WIDTH / WORLD, most, DType::Bf16);
    let config = GroupConfig::default().sized_for(std::slice::from_ref(&spec), WORLD)?;
    let ranks = node.group(WORLD, &config)?;
    let models = ranks
        .iter()
        .map(|rank| Model::load(rank, &spec))
        .collect::<Result<Vec<_>>>()?;
    let attached = Barrier::new(WORLD);
    let operations = std::thread::scope(|scope| {
        let threads: Vec<_> = models
            .into_iter()
            .map(|model| scope.spawn(|| run(model, &node, &attached)))
            .collect();
        let ends = threads
            .into_iter()
            .map(|thread| thread.join().expect("a rank panicked"));
        ends.collect::<Result<Vec<u64>>>()
    })?;
    println!(
        "{} graphs of {LAYERS} layers a rank; operations run: {operations:?}",
        BUCKETS.len()
    );
    Ok(())
}
