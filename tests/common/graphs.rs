//! Graphs of ranks, and an all-reduce that takes any number of rows.

use std::time::Duration;

use tileweave::driver::GraphExec;
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Operands, Plan, Rank, Result};

use super::{Loaded, on_gpu};

/// A graph, ready to be launched on its rank's stream.
pub struct Captured {
    rank: Rank,
    pub exec: GraphExec,
}

impl Captured {
    pub fn new(rank: &Rank, enqueue: impl FnOnce() -> Result<()>) -> Result<Captured> {
        let (node, stream) = (rank.node(), rank.stream());
        let driver = node.driver();
        driver.stream_begin_capture(stream)?;
        let enqueued = enqueue();
        let graph = driver.stream_end_capture(stream);
        enqueued?;
        let graph = graph?;
        let exec = driver.graph_instantiate(graph, stream)?;
        driver.graph_destroy(graph)?;
        driver.graph_upload(exec, stream)?;
        let rank = rank.clone();
        Ok(Captured { rank, exec })
    }

    pub fn replay(&self) -> Result<()> {
        self.rank.node().driver().graph_launch(self.exec, self.rank.stream())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.rank.node().driver().graph_exec_destroy(self.exec).unwrap();
    }
}

pub fn replay_all(graphs: &[Captured]) {
    graphs.iter().for_each(|graph| graph.replay().unwrap());
}

pub fn synchronize(ranks: &[Rank]) {
    ranks.iter().for_each(|rank| rank.synchronize().unwrap());
}

pub fn results_of(loaded: &[Loaded]) -> Vec<Vec<u8>> {
    loaded.iter().map(|l| l.out.read().unwrap()).collect()
}

/// One [M, N] all-reduce of f32 per rank, of any number of rows.
pub struct Sum {
    pub rank: Rank,
    pub plan: Plan,
    pub x: Buffer,
    pub out: Buffer,
}

impl Sum {
    pub const N: usize = 64;

    pub fn new(rank: &Rank, max_m: usize) -> Sum {
        let bytes = max_m * Self::N * 4;
        Sum {
            rank: rank.clone(),
            plan: rank
                .plan(&OpSpec::new(Op::AllReduce, Self::N, 0, max_m, DType::F32))
                .unwrap(),
            x: rank.alloc(bytes).unwrap(),
            out: rank.alloc(bytes).unwrap(),
        }
    }

    pub fn launch(&mut self, m: usize) -> Result<()> {
        let x = self.x.mat(m, Self::N, DType::F32)?;
        let out = self.out.mat_mut(m, Self::N, DType::F32)?;
        self.plan.launch(&Operands::plain(m, x, out))
    }

    pub fn capture(&mut self, m: usize) -> Result<Captured> {
        let rank = self.rank.clone();
        Captured::new(&rank, || self.launch(m))
    }

    /// Behind the work in the stream: other operands at the same address, and no result.
    pub fn refill(&mut self, m: usize, value: f32) {
        self.x
            .upload(&vec![value + self.rank.rank() as f32; m * Self::N])
            .unwrap();
        self.out.fill(0xff).unwrap();
    }

    #[track_caller]
    pub fn check(&self, m: usize, value: f32) {
        let world = self.rank.world() as f32;
        let sum = world * value + world * (world - 1.0) / 2.0;
        let out = self.out.to_vec::<f32>(m * Self::N).unwrap();
        assert!(
            out.iter().all(|y| *y == sum),
            "rank {}: {out:?} is not {sum}",
            self.rank.rank()
        );
    }
}

pub fn sums(node: &Node, world: usize, max_m: usize) -> (Vec<Rank>, Vec<Sum>) {
    // Simulated time stands still while this thread launches for one rank after the other; a GPU's does not.
    let deadline = if on_gpu() { 2000 } else { 20 };
    let config = GroupConfig::default().deadline(Duration::from_millis(deadline));
    let spec = OpSpec::new(Op::AllReduce, Sum::N, 0, max_m, DType::F32);
    let ranks = node.group(world, &config.sized_for(&[spec], world).unwrap()).unwrap();
    let sums = ranks.iter().map(|rank| Sum::new(rank, max_m)).collect();
    (ranks, sums)
}
