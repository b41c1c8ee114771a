//! The run itself: splits the operands over the ranks, launches from one thread per rank, brings the results back.
//!
//! Everything that can fail on the host (allocating, uploading, planning) happens before the first launch, on one thread:
//! a rank that stopped there would leave its peers waiting. The threads then only launch and wait, and all of them are
//! attached to the node before any of them starts, so that a simulated schedule depends on its seed alone.

use std::sync::Barrier;

use tileweave::driver::ThreadGuard;
use tileweave::reference::chunk;
use tileweave::timeline::Recorder;
use tileweave::{
    Buffer, DType, GroupConfig, NcclPolicy, Node, Numerics, Op, OpSpec, Operands, Path, Plan, Rank, Route, Tail, Want,
};

use super::check::Adder;
use super::crew::Crew;
use super::fault::{self, Fault};
use super::graph::{self, Captured};
use super::input::{Problem, available_memory, total_memory};
use super::record::{self, Files};
use super::shape::Shape;
use super::timing;
use crate::cli::{RouteArg, RunArgs};
use crate::device::Machine;
use crate::failure::Failure;

/// What every rank holds afterwards, packed.
#[derive(Debug, Default)]
pub struct Results {
    pub y: Vec<Vec<u8>>,
    /// The updated residuals; none without a tail.
    pub residual: Vec<Vec<u8>>,
}

impl Results {
    pub fn all(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.y.iter().chain(&self.residual)
    }
}

/// What a run brought back.
pub struct Outcome {
    pub device_name: String,
    pub route: Route,
    pub adder: Adder,
    pub results: Results,
    /// The same by the other route, where the contract promises equal bits.
    pub other: Option<Results>,
    /// Of one operation, per rank.
    pub bytes_sent: Vec<u64>,
    pub signals_sent: Vec<u64>,
    pub elapsed_ms: Option<f64>,
}

/// The most that one rank's heap may have. An operation that would have more goes through this in several rounds.
pub fn heap_share(machine: &Machine, node: &Node, ranks: usize, crew: Crew) -> usize {
    /// Of what is available: operands and results, in two routes and in f64, need the rest.
    const OF_HOST_MEMORY: u64 = 4;
    /// Processes must agree, and what is available changes while they ask.
    const OF_ALL_MEMORY: u64 = 8;
    /// A third of the smallest GPU that kernels are built for.
    const OF_A_GPU: usize = 8 << 30;
    match machine {
        Machine::Sim => {
            let bytes = match crew {
                Crew::Threads => available_memory() / OF_HOST_MEMORY,
                Crew::Process(_) => total_memory() / OF_ALL_MEMORY,
            };
            usize::try_from(bytes / ranks as u64).unwrap_or(usize::MAX)
        }
        Machine::Cuda(_) => OF_A_GPU / ranks.div_ceil(node.device_count().max(1)),
    }
}

/// One rank, ready to launch.
pub struct Lane {
    pub rank: Rank,
    plan: Plan,
    buffers: Buffers,
    has_gemm: bool,
    /// What this rank does: the operation, another M's, or nothing.
    part: Part,
    crew: Crew,
    /// The same captured, where it was.
    pub graph: Option<Captured>,
    /// Where a launch leaves stamps, if it does.
    pub recorder: Option<Recorder>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Silent,
    /// Its process is killed where it would launch.
    Dies,
    Launches(LaunchSize),
}

/// Device memory of one rank.
struct Buffers {
    x: Buffer,
    weight: Option<Buffer>,
    bias: Option<Buffer>,
    addend: Option<Buffer>,
    residual: Option<Buffer>,
    gamma: Option<Buffer>,
    /// `None`: the result replaces x.
    out: Option<Buffer>,
    dtype: DType,
}

/// The sizes of one rank's operands in one launch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LaunchSize {
    m: usize,
    x: (usize, usize),
    out: (usize, usize),
    /// Rows and columns of the addend and depth of the weight follow from the plan.
    n: usize,
    k: usize,
}

impl LaunchSize {
    /// Rank `rank`'s operands where `m` global rows are launched.
    fn new(shape: &Shape, rank: usize, m: usize) -> Self {
        let own_rows = chunk(m, shape.ranks, rank).len();
        let depth = chunk(shape.k, shape.ranks, rank).len();
        let own_columns = chunk(shape.n, shape.ranks, rank).len();
        let (x, out, n, k) = match shape.op {
            Op::GemmReduceScatter => ((m, depth), (own_rows, shape.n), shape.n, depth),
            Op::GemmAllReduce => ((m, depth), (m, shape.n), shape.n, depth),
            Op::AllGatherGemm => ((own_rows, shape.k), (m, own_columns), own_columns, shape.k),
            Op::ReduceScatter => ((m, shape.n), (own_rows, shape.n), shape.n, 0),
            Op::AllGather => ((own_rows, shape.n), (m, shape.n), shape.n, 0),
            _ => ((m, shape.n), (m, shape.n), shape.n, 0),
        };
        LaunchSize { m, x, out, n, k }
    }

    fn spec(&self, shape: &Shape, problem: &Problem, args: &RunArgs, max_m: usize, route: Want) -> OpSpec {
        let spec = OpSpec::new(shape.op, self.n, self.k, max_m, problem.dtype)
            .wire(args.wire.into())
            .bias(problem.bias.is_some())
            .tail(
                problem
                    .tail
                    .as_ref()
                    .map_or(Tail::None, |tail| Tail::RmsNorm { eps: tail.eps }),
            )
            .route(route);
        // Shares may be ragged, and the choice of a route must be the same on every rank.
        let spec = match shape.op {
            Op::GemmReduceScatter | Op::GemmAllReduce => spec.whole(shape.k),
            Op::AllGatherGemm => spec.whole(shape.n),
            _ => spec,
        };
        let spec = match args.mainloop {
            Some(mainloop) => spec.mainloop(mainloop.into()),
            None => spec,
        };
        let spec = match args.exchange {
            Some(exchange) => spec.exchange(exchange.into()),
            None => spec,
        };
        match args.reducers {
            Some(reducers) => spec.reducers(reducers),
            None => spec,
        }
    }
}

/// Runs the problem on `machine`.
pub fn execute(
    machine: &Machine,
    problem: &Problem,
    args: &RunArgs,
    crew: Crew,
    files: &Files,
) -> Result<Outcome, Failure> {
    let shape = &problem.shape;
    let node = machine.node(shape.ranks, args)?;
    let (m, _) = shape.result();
    let other_m = if m > 0 { m - 1 } else { 1 }; // of a rank that disagrees
    let max_m = m.max(other_m);
    let wanted = match args.route {
        RouteArg::Auto => Want::Auto,
        RouteArg::Fused => Want::Exactly(Path::Fused),
        RouteArg::Unfused => Want::Exactly(Path::Unfused),
        RouteArg::Nccl => Want::Exactly(Path::Nccl),
    };
    let sizes: Vec<LaunchSize> = (0..shape.ranks).map(|rank| LaunchSize::new(shape, rank, m)).collect();
    let spec_of = |rank: usize, route| sizes[rank].spec(shape, problem, args, max_m, route);
    let both = [Want::Exactly(Path::Fused), Want::Exactly(Path::Unfused)];
    let ours = match (crew.is_across(), shape.op.has_gemm()) {
        // Between hosts there are none.
        (true, _) => &[Want::Exactly(Path::Nccl)],
        (false, true) => &both[..],
        (false, false) => &both[1..],
    };
    let routes: Vec<Want> = ours.iter().copied().chain([wanted]).collect();
    let specs: Vec<OpSpec> = (0..shape.ranks)
        .flat_map(|rank| routes.iter().map(move |route| (rank, *route)))
        .map(|(rank, route)| spec_of(rank, route))
        .chain(crew.specs(shape.ranks))
        .collect();
    let config = GroupConfig::default()
        .nccl(nccl_policy(machine, args.route))
        .deadline(std::time::Duration::from_millis(args.deadline_ms));
    let config = match args.in_switch() {
        true => config.numerics(Numerics::InSwitch),
        false => config,
    };
    let config = config.clone().sized_for(&specs, shape.ranks)?;
    let heap_bytes = config.heap_bytes.min(heap_share(machine, &node, shape.ranks, crew));
    let ranks = crew.ranks(&node, shape.ranks, &config.heap_bytes(heap_bytes))?;

    let mut lanes = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let index = rank.rank();
        let size = &sizes[index];
        let part = match args.fault {
            Some(Fault::Silent { rank }) if rank == index => Part::Silent,
            Some(Fault::Kill { rank }) if rank == index => Part::Dies,
            Some(Fault::Disagree { rank }) if rank == index => Part::Launches(LaunchSize::new(shape, index, other_m)),
            _ => Part::Launches(*size),
        };
        let largest = [*size, LaunchSize::new(shape, index, other_m)];
        let buffers = Buffers::upload(&rank, problem, &largest, args.in_place)?;
        let plan = rank.plan(&spec_of(index, wanted))?;
        lanes.push(Lane {
            rank,
            plan,
            buffers,
            has_gemm: shape.op.has_gemm(),
            part,
            crew,
            graph: None,
            recorder: None,
        });
    }
    let route = lanes[0].plan.route(m);
    let mut before = vec![(0, 0); lanes.len()];
    if let Some(replays) = args.graph {
        graph::capture(&node, &mut lanes, replays)?;
        before = traffic(&node, &lanes);
        // What is checked is the last replay's.
        for lane in &mut lanes {
            let index = lane.rank.rank();
            lane.buffers.forget_result(problem)?;
            if args.in_place {
                lane.buffers.x.upload(&own(problem, index, &problem.x))?;
            }
        }
    }
    launch_everywhere(&node, &mut lanes)?;
    let results = download(&lanes, &sizes)?;
    let sent = traffic(&node, &lanes);
    let sent = before.iter().zip(sent);
    let sent = sent
        .map(|(before, after)| (after.0 - before.0, after.1 - before.1))
        .collect();

    let elapsed_ms = timing::measure(&node, &mut lanes, args.warmup, args.iters)?;
    if files.any() {
        let timeline = record::record(&node, &mut lanes)?;
        let title = format!("{} of {m} rows on {} ranks, {}", shape.op, shape.ranks, route.kernel);
        files.write(&timeline, &title)?;
    }
    // Sums of the switch, and of NCCL, have bits of their own.
    let adder = match route.path {
        Path::Nccl => Adder::Nccl,
        _ if args.in_switch() => Adder::Switch,
        _ => Adder::Ranks,
    };
    let other = if shape.op.has_gemm() && adder == Adder::Ranks {
        let path = if route.path == Path::Fused {
            Path::Unfused
        } else {
            Path::Fused
        };
        for lane in &mut lanes {
            lane.graph = None;
            lane.plan = lane.rank.plan(&spec_of(lane.rank.rank(), Want::Exactly(path)))?;
            lane.buffers.forget_result(problem)?;
        }
        launch_everywhere(&node, &mut lanes)?;
        Some(download(&lanes, &sizes)?)
    } else {
        None
    };
    let ranks: Vec<&Rank> = lanes.iter().map(|lane| &lane.rank).collect();
    let results = crew.gather(&ranks, results)?;
    let other = other.map(|other| crew.gather(&ranks, other)).transpose()?;
    let (bytes_sent, signals_sent) = crew.gather_counts(&ranks, sent)?.into_iter().unzip();
    let info = node.driver().place_info(lanes[0].rank.place())?;
    let device_name = describe_devices(&node, &info.name, crew.ranks_here(shape.ranks));
    Ok(Outcome {
        device_name,
        route,
        adder,
        results,
        other,
        bytes_sent,
        signals_sent,
        elapsed_ms,
    })
}

/// Whoever runs this program wants it run, by NCCL where that is faster. On the simulated node there is none, which is worth
/// a word only where it was asked for.
pub fn nccl_policy(machine: &Machine, route: RouteArg) -> NcclPolicy {
    match (machine, route) {
        (Machine::Sim, route) if route != RouteArg::Nccl => NcclPolicy::Never,
        _ => NcclPolicy::Own,
    }
}

pub fn describe_devices(node: &Node, name: &str, ranks: usize) -> String {
    match node.device_count() {
        devices if devices >= ranks => name.into(),
        devices => format!("{name}, {ranks} virtual ranks on {devices}"),
    }
}

impl Buffers {
    fn upload(rank: &Rank, problem: &Problem, sizes: &[LaunchSize], in_place: bool) -> Result<Self, Failure> {
        let (shape, element) = (&problem.shape, problem.dtype.size());
        let index = rank.rank();
        let most = |of: fn(&LaunchSize) -> usize| sizes.iter().map(of).max().unwrap_or(0) * element;
        let filled = |bytes: &[u8], room: usize| -> Result<Buffer, Failure> {
            let mut buffer = rank.alloc(room.max(bytes.len()))?;
            buffer.fill(0)?;
            buffer.upload(bytes)?;
            Ok(buffer)
        };
        let x = match shape.op {
            op if op.has_gemm() => shape.x_of(index).cut(&problem.x, shape.k, element),
            _ => own(problem, index, &problem.x),
        };
        let weight = shape
            .weight_of(index)
            .map(|block| block.cut(&problem.weight, shape.k, element));
        let bias = problem.bias.as_ref().map(|bias| match shape.op {
            Op::AllGatherGemm => {
                let columns = chunk(shape.n, shape.ranks, index);
                bias[columns.start * element..columns.end * element].to_vec()
            }
            _ => bias.clone(),
        });
        let addend = problem.addend.as_ref().map(|addend| own(problem, index, addend));
        let out = most(|size| size.out.0 * size.out.1);
        let tail = problem.tail.as_ref();
        Ok(Buffers {
            x: filled(&x, most(|size| size.x.0 * size.x.1))?,
            weight: weight.map(|bytes| filled(&bytes, 0)).transpose()?,
            bias: bias.map(|bytes| filled(&bytes, 0)).transpose()?,
            addend: addend
                .map(|bytes| filled(&bytes, most(|size| size.m * size.n)))
                .transpose()?,
            residual: tail.map(|tail| filled(&tail.residual, out)).transpose()?,
            gamma: tail.map(|tail| filled(&tail.gamma, 0)).transpose()?,
            out: if in_place { None } else { Some(rank.alloc(out)?) },
            dtype: problem.dtype,
        })
    }

    /// What the other route leaves unwritten must not pass for its result; and it begins with the same residual.
    fn forget_result(&mut self, problem: &Problem) -> Result<(), Failure> {
        const NAN_IN_EVERY_TYPE: u8 = 0xff;
        if let (Some(residual), Some(tail)) = (&mut self.residual, &problem.tail) {
            residual.upload(&tail.residual)?;
        }
        match &mut self.out {
            Some(out) => Ok(out.fill(NAN_IN_EVERY_TYPE)?),
            None => Ok(()),
        }
    }
}

/// Rank `index`'s matrix of those that stand one behind the other in `all`, each [M, N].
fn own(problem: &Problem, index: usize, all: &[u8]) -> Vec<u8> {
    let bytes = problem.shape.m * problem.shape.n * problem.dtype.size();
    all[index * bytes..(index + 1) * bytes].to_vec()
}

impl Lane {
    /// Enqueues this rank's part: its graph, where it was captured.
    pub fn enqueue(&mut self) -> tileweave::Result<()> {
        match &self.graph {
            Some(graph) => graph.launch(self),
            None => self.launch(),
        }
    }

    /// Launches this rank's part.
    pub fn launch(&mut self) -> tileweave::Result<()> {
        let size = match self.part {
            Part::Launches(size) => size,
            Part::Silent => return self.crew.stay_away(&self.rank),
            Part::Dies => fault::kill_this_process(),
        };
        let Buffers {
            x,
            weight,
            bias,
            addend,
            residual,
            gamma,
            out,
            dtype,
        } = &mut self.buffers;
        let dtype = *dtype;
        let mut operands = match out {
            None => Operands::in_place(size.m, x.mat_mut(size.x.0, size.x.1, dtype)?),
            Some(out) => {
                let out = out.mat_mut(size.out.0, size.out.1, dtype)?;
                let x = x.mat(size.x.0, size.x.1, dtype)?;
                match weight {
                    Some(weight) if self.has_gemm => Operands::gemm(size.m, x, weight.mat(size.n, size.k, dtype)?, out),
                    _ => Operands::plain(size.m, x, out),
                }
            }
        };
        if let Some(bias) = bias {
            operands = operands.bias(bias.mat(1, size.n, dtype)?);
        }
        if let Some(addend) = addend {
            operands = operands.addend(addend.mat(size.m, size.n, dtype)?);
        }
        if let (Some(residual), Some(gamma)) = (residual, gamma) {
            operands = operands.tail(residual.mat_mut(size.m, size.n, dtype)?, gamma.mat(1, size.n, dtype)?);
        }
        match &self.recorder {
            Some(recorder) => self.plan.launch_recorded(&operands, recorder),
            None => self.plan.launch(&operands),
        }
    }

    fn result(&self) -> &Buffer {
        self.buffers.out.as_ref().unwrap_or(&self.buffers.x)
    }
}

fn launch_everywhere(node: &Node, lanes: &mut [Lane]) -> Result<(), Failure> {
    on_every_rank(node, lanes, |lane| {
        lane.enqueue()?;
        lane.rank.synchronize()
    })?;
    Ok(())
}

/// Runs `body` for every rank at once, each on a thread of its own. Of several failures, one that is not the echo of
/// another rank's is returned.
pub fn on_every_rank<L: Send, T: Send>(
    node: &Node,
    lanes: &mut [L],
    body: impl Fn(&mut L) -> tileweave::Result<T> + Sync,
) -> Result<Vec<T>, Failure> {
    let all_attached = Barrier::new(lanes.len());
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .iter_mut()
            .map(|lane| {
                let (body, all_attached) = (&body, &all_attached);
                scope.spawn(move || {
                    let _driving: ThreadGuard = node.attach_thread();
                    all_attached.wait();
                    body(lane)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut values = Vec::with_capacity(outcomes.len());
    let mut failure: Option<tileweave::Error> = None;
    for outcome in outcomes {
        match outcome {
            Ok(Ok(value)) => values.push(value),
            Ok(Err(error)) => {
                if failure
                    .as_ref()
                    .is_none_or(|first| matches!(first, tileweave::Error::Poisoned(_)))
                {
                    failure = Some(error);
                }
            }
            Err(_) => return Err(crate::defect()),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(values),
    }
}

fn download(lanes: &[Lane], sizes: &[LaunchSize]) -> Result<Results, Failure> {
    let mut results = Results::default();
    for lane in lanes {
        let size = &sizes[lane.rank.rank()];
        let bytes = size.out.0 * size.out.1 * lane.buffers.dtype.size();
        results.y.push(lane.result().to_vec::<u8>(bytes)?);
        if let Some(residual) = &lane.buffers.residual {
            results.residual.push(residual.to_vec::<u8>(bytes)?);
        }
    }
    Ok(results)
}

/// What each rank has sent so far.
fn traffic(node: &Node, lanes: &[Lane]) -> Vec<(u64, u64)> {
    lanes.iter().map(|lane| traffic_of(node, &lane.rank)).collect()
}

/// Bytes and signals that a rank has sent so far: as the machine saw them where it does, else as its kernels counted.
pub fn traffic_of(node: &Node, rank: &Rank) -> (u64, u64) {
    let counted = || {
        let stats = rank.stats();
        (stats.bytes_sent(), stats.signals_sent)
    };
    node.driver().observed_traffic(rank.place()).unwrap_or_else(counted)
}
