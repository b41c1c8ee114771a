//! What kernels take on a described machine's clock: one launch on every rank, between events.

use std::time::Duration;

use tileweave::driver::Driver;
use tileweave::driver::sim::SimConfig;
use tileweave::machines::Description;
use tileweave::{
    Buffer, DType, Error, Exchange, GroupConfig, Node, Numerics, Op, OpSpec, Operands, Path, Rank, Result, Want, chunk,
};

/// The bound on waits, of simulated time.
const DEADLINE: Duration = Duration::from_secs(20);
/// Of every schedule: predictions do not depend on it by more than the machine's noise would.
const SEED: u64 = 1;

/// An operation with a GEMM, as one rank computes it.
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    pub op: Op,
    pub world: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dtype: DType,
}

/// A described node with its clock. There is no mainloop for Blackwell here: Hopper's kernels, at Blackwell's rates, stand
/// for theirs.
fn node(machine: &Description) -> Result<Node> {
    let mut machine = machine.clone();
    if machine.gpu.starts_with('B') {
        machine.gpu = "H200".into();
    }
    Node::sim(SimConfig::clocked(&machine, SEED))
}

fn ranks(machine: &Description, specs: &[OpSpec], world: usize, config: GroupConfig) -> Result<Vec<Rank>> {
    let config = config.deadline(DEADLINE).sized_for(specs, world)?;
    node(machine)?.group(world, &config)
}

/// Microseconds of the slowest rank for each of some launches in a row. All start together.
fn timed(ranks: &[Rank], launches: usize, mut launch: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let node = ranks[0].node();
    let driver: &dyn Driver = &**node.driver();
    let go = driver.event_create(ranks[0].place())?;
    driver.event_record(go, ranks[0].stream())?;
    let mut events = Vec::with_capacity(ranks.len());
    for rank in ranks {
        driver.stream_wait_event(rank.stream(), go)?;
        let pair = [driver.event_create(rank.place())?, driver.event_create(rank.place())?];
        driver.event_record(pair[0], rank.stream())?;
        events.push(pair);
    }
    for _ in 0..launches {
        (0..ranks.len()).try_for_each(&mut launch)?;
    }
    for (rank, pair) in ranks.iter().zip(&events) {
        driver.event_record(pair[1], rank.stream())?;
    }
    ranks.iter().try_for_each(Rank::synchronize)?;
    let mut longest = 0.0f64;
    for [before, after] in events {
        let ms = driver.event_elapsed_ms(before, after)?;
        let ms = ms.ok_or_else(|| Error::Unavailable {
            what: "a clock".into(),
            reason: "events tell no times".into(),
        })?;
        longest = longest.max(1e3 * ms);
        driver.event_destroy(before)?;
        driver.event_destroy(after)?;
    }
    driver.event_destroy(go)?;
    Ok(longest / launches as f64)
}

/// One rank's operands.
struct Lane {
    x: Buffer,
    weight: Buffer,
    out: Buffer,
}

impl Gemm {
    fn spec(&self, path: Path) -> OpSpec {
        OpSpec::new(self.op, self.n, self.k, self.m, self.dtype).route(Want::Exactly(path))
    }

    /// The GEMM alone on every rank, microseconds.
    pub fn alone(&self, machine: &Description) -> Result<f64> {
        // Of a group of one, the unfused path has the GEMM by itself; the other ranks do the same.
        let spec = Gemm {
            op: Op::GemmReduceScatter,
            ..*self
        }
        .spec(Path::Unfused);
        let ranks = ranks(machine, std::slice::from_ref(&spec), 1, GroupConfig::default())?;
        let mut lane = self.lane(&ranks[0], self.m, self.m)?;
        let plan = ranks[0].plan(&spec)?;
        timed(&ranks, 1, |_| {
            let (x, weight) = (
                lane.x.mat(self.m, self.k, self.dtype)?,
                lane.weight.mat(self.n, self.k, self.dtype)?,
            );
            plan.launch_gemm(self.m, x, weight, &mut lane.out.mat_mut(self.m, self.n, self.dtype)?)
        })
    }

    /// In one kernel; by the switch where asked for.
    pub fn fused(&self, machine: &Description, in_switch: bool) -> Result<f64> {
        let spec = self.spec(Path::Fused);
        let (spec, numerics) = match in_switch {
            true => (spec.exchange(Exchange::InSwitch), Numerics::InSwitch),
            false => (spec, Numerics::Exact),
        };
        let config = GroupConfig::default().numerics(numerics);
        let ranks = ranks(machine, std::slice::from_ref(&spec), self.world, config)?;
        let own = |rank: usize| chunk(self.m, self.world, rank).len();
        let rows = |rank: usize| match self.op {
            Op::AllGatherGemm => (own(rank), self.m),
            Op::GemmReduceScatter => (self.m, own(rank)),
            _ => (self.m, self.m),
        };
        let lane = |rank: &Rank| self.lane(rank, rows(rank.rank()).0, rows(rank.rank()).1);
        let mut lanes = ranks.iter().map(lane).collect::<Result<Vec<Lane>>>()?;
        let plans = ranks.iter().map(|rank| rank.plan(&spec)).collect::<Result<Vec<_>>>()?;
        timed(&ranks, 1, |rank| {
            let (lane, (x, out)) = (&mut lanes[rank], rows(rank));
            let (x, weight) = (
                lane.x.mat(x, self.k, self.dtype)?,
                lane.weight.mat(self.n, self.k, self.dtype)?,
            );
            let out = lane.out.mat_mut(out, self.n, self.dtype)?;
            plans[rank].launch(&Operands::gemm(self.m, x, weight, out))
        })
    }

    fn lane(&self, rank: &Rank, x: usize, out: usize) -> Result<Lane> {
        let size = self.dtype.size();
        let lane = Lane {
            x: rank.alloc(x * self.k * size)?,
            weight: rank.alloc(self.n * self.k * size)?,
            out: rank.alloc(out * self.n * size)?,
        };
        rank.synchronize()?;
        Ok(lane)
    }
}

/// How an all-reduce of ours goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllReduce {
    /// As the crate chooses by size.
    AsChosen,
    OneShot,
    TwoShot,
    InSwitch,
}

/// An all-reduce of ours alone, microseconds.
pub fn all_reduce(machine: &Description, world: usize, bytes: usize, by: AllReduce) -> Result<f64> {
    let dtype = DType::Bf16;
    let values = (bytes / dtype.size()).max(1);
    let spec = OpSpec::new(Op::AllReduce, values, 0, 1, dtype).route(Want::Exactly(Path::Unfused));
    let config = GroupConfig::default();
    let (spec, config) = match by {
        AllReduce::AsChosen => (spec, config),
        // Rows of packets are padded to 64 values.
        AllReduce::OneShot => (spec, config.one_shot_bytes(bytes.next_multiple_of(128))),
        AllReduce::TwoShot => (spec, config.one_shot_bytes(0)),
        AllReduce::InSwitch => (
            spec.exchange(Exchange::InSwitch),
            config.one_shot_bytes(0).numerics(Numerics::InSwitch),
        ),
    };
    let ranks = ranks(machine, std::slice::from_ref(&spec), world, config)?;
    let buffers = |_| {
        ranks
            .iter()
            .map(|rank| rank.alloc(values * dtype.size()))
            .collect::<Result<Vec<Buffer>>>()
    };
    let (x, mut out) = (buffers(0)?, buffers(1)?);
    ranks.iter().try_for_each(Rank::synchronize)?;
    let plans = ranks.iter().map(|rank| rank.plan(&spec)).collect::<Result<Vec<_>>>()?;
    // Others replay graphs of many.
    let launches = if bytes <= 4 << 20 { 10 } else { 2 };
    timed(&ranks, launches, |rank| {
        let (x, out) = (x[rank].mat(1, values, dtype)?, out[rank].mat_mut(1, values, dtype)?);
        plans[rank].launch(&Operands::plain(1, x, out))
    })
}
