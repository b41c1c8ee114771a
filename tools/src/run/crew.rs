//! Where the ranks of a run are: all in this process, a thread each; or, where a launcher started one process for each rank, one
//! of them here.
//!
//! A launcher is torchrun, mpirun, Slurm, or this program itself (`--processes`, [`super::processes`]). What ranks in other
//! processes hold afterwards is gathered by the crate's own all-gather, between hosts by NCCL's, so that rank 0 judges and reports for all.

use std::time::Duration;

use tileweave::driver::{Place, Stream};
use tileweave::{DType, Environment, GroupConfig, Node, Op, OpSpec, Operands, Path, Rank, Want};

use super::execute::Results;
use crate::cli::{RouteArg, RunArgs};
use crate::device::Machine;
use crate::failure::{Failure, Kind};

/// The least time that processes have to join: they take some to start, whatever the bound on an operation is.
const JOINING: Duration = Duration::from_secs(5);
/// Columns of the matrix of f32 that bytes are gathered as.
const COLUMNS: usize = 256;
const ROW: usize = 4 * COLUMNS;
/// Rows of a rank that a heap has to have room for at once.
const SMALL: usize = 64;

/// Longer than any deadline that may be asked for.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Where the ranks are.
#[derive(Debug, Clone, Copy)]
pub enum Crew {
    /// All here.
    Threads,
    /// This one is.
    Process(Environment),
}

impl Crew {
    /// What a run on several hosts is refused by, if it is.
    fn refused_across(self, why: &str) -> Failure {
        let here = match self {
            Crew::Process(Environment {
                local_world: Some(local),
                world,
                ..
            }) => format!("{local} of {world} ranks are on this host"),
            _ => "ranks are on several hosts".to_string(),
        };
        Failure::unavailable(format!("{here}, and what hosts exchange goes by NCCL: {why}"))
    }

    /// That ranks on several hosts have a machine and a route for it.
    pub fn check(self, machine: &Machine, args: &RunArgs) -> Result<(), Failure> {
        match (machine, args.route) {
            _ if !self.is_across() => Ok(()),
            (_, RouteArg::Fused | RouteArg::Unfused) => {
                Err(self.refused_across("--route fused and unfused are for the ranks of one host"))
            }
            (Machine::Sim, _) => Err(self.refused_across("the simulated node has none")),
            _ => Ok(()),
        }
    }

    /// By what a launcher says, if there was one. One process alone is as good as none.
    pub fn find(args: &RunArgs) -> Result<Crew, Failure> {
        let Some(told) = Environment::read()?.filter(|told| told.world > 1 || args.processes) else {
            return Ok(Crew::Threads);
        };
        if let Some(ranks) = args.common.ranks.filter(|ranks| *ranks != told.world) {
            let expected = format!("{}, as {} started as many processes", told.world, told.launcher);
            return Err(Failure::bad_value("--ranks", ranks, &expected));
        }
        if args.processes {
            end_with_the_starter();
        }
        Ok(Crew::Process(told))
    }

    /// Whether ranks are on several hosts.
    pub fn is_across(self) -> bool {
        matches!(self, Crew::Process(told) if told.spans_hosts())
    }

    /// How many of `world` ranks this host has.
    pub fn ranks_here(self, world: usize) -> usize {
        match self {
            Crew::Process(told) if told.spans_hosts() => told.local_world.unwrap_or(1),
            _ => world,
        }
    }

    /// Whether this process speaks for all.
    pub fn reports(self) -> bool {
        match self {
            Crew::Threads => true,
            Crew::Process(told) => told.rank == 0,
        }
    }

    /// What stands beside a failure of a rank whose peer has ended: no kernel has recorded it.
    pub fn name(self, failure: Failure, op: Op) -> Failure {
        match self {
            Crew::Process(told) if failure.kind == Kind::PeerExited => {
                let failure = failure.with("op", op.name()).with("rank", told.rank);
                let failure = ["epoch", "tile", "expected", "seen"]
                    .into_iter()
                    .fold(failure, |failure, name| failure.with(name, 0));
                failure.with("chain", Vec::<serde_json::Value>::new())
            }
            _ => failure,
        }
    }

    /// This process's ranks of a group of `world`.
    pub fn ranks(self, node: &Node, world: usize, config: &GroupConfig) -> Result<Vec<Rank>, Failure> {
        let Crew::Process(told) = self else {
            return Ok(node.group(world, config)?);
        };
        let stream = node.driver().stream_create(place(node, &told))?;
        let id = told.id("run");
        let config = config.clone().joining(config.deadline.max(JOINING));
        let rank = if told.spans_hosts() {
            let (host, port) = told.meeting().inspect_err(|_| end(node, stream))?;
            // SAFETY: the stream is this node's, and nobody ends it: it goes with the process.
            unsafe { Rank::join_across(node, stream, told.rank, world, &id, (&host, port), &config) }
        } else {
            // SAFETY: as above.
            unsafe { Rank::join(node, stream, told.rank, world, &id, &config) }
        };
        Ok(vec![rank.inspect_err(|_| end(node, stream))?])
    }

    /// A rank that never launches. Where its peers are processes, it is there until they have found out: they would hear of
    /// its end at once.
    pub fn stay_away(self, rank: &Rank) -> tileweave::Result<()> {
        match self {
            Crew::Threads => Ok(()),
            // Nobody comes: it ends when the first of them goes.
            Crew::Process(_) => rank.host_barrier(A_DAY),
        }
    }

    /// What the group must serve beside the operation itself.
    pub fn specs(self, world: usize) -> Vec<OpSpec> {
        match self {
            Crew::Threads => Vec::new(),
            // What is gathered goes through its heap in as many rounds as it takes.
            Crew::Process(_) => vec![gathering(world, world * SMALL, self.path())],
        }
    }

    /// How ranks of other processes send what is gathered.
    fn path(self) -> Path {
        if self.is_across() { Path::Nccl } else { Path::Unfused }
    }

    /// Everybody's results, from what those of this process are.
    pub fn gather(self, ranks: &[&Rank], own: Results) -> Result<Results, Failure> {
        let (Crew::Process(_), [rank]) = (self, ranks) else {
            return Ok(own);
        };
        let (y, residual) = (own.y.concat(), own.residual.concat());
        Ok(Results {
            residual: if own.residual.is_empty() {
                Vec::new()
            } else {
                everybodys(rank, &residual, self.path())?
            },
            y: everybodys(rank, &y, self.path())?,
        })
    }

    /// Everybody's pairs of counts.
    pub fn gather_counts(self, ranks: &[&Rank], own: Vec<(u64, u64)>) -> Result<Vec<(u64, u64)>, Failure> {
        let (Crew::Process(_), [rank]) = (self, ranks) else {
            return Ok(own);
        };
        let words: Vec<u8> = own
            .iter()
            .flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat())
            .collect();
        let all = everybodys(rank, &words, self.path())?;
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(0);
        Ok(all.iter().map(|pair| (word(&pair[..8]), word(&pair[8..]))).collect())
    }
}

/// A rank whose starter is gone has nobody to report to.
fn end_with_the_starter() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// The device by the launcher's number on this host, else by the rank; ranks beyond the devices share them.
fn place(node: &Node, told: &Environment) -> Place {
    let devices = node.device_count().max(1);
    let (index, world) = (
        told.local_rank.unwrap_or(told.rank),
        told.local_world.unwrap_or(told.world),
    );
    Place {
        device: index % devices,
        share: index / devices,
        shares: world.div_ceil(devices).max(1),
    }
}

fn end(node: &Node, stream: Stream) {
    // The error of joining is the one to report.
    let _ = node.driver().stream_destroy(stream);
}

/// An all-gather of matrices of f32 with rows of [`ROW`] bytes.
fn gathering(world: usize, rows: usize, path: Path) -> OpSpec {
    OpSpec::new(Op::AllGather, COLUMNS, 0, rows.max(world), DType::F32).route(Want::Exactly(path))
}

/// Every rank's bytes; of this one they are `own`.
fn everybodys(rank: &Rank, own: &[u8], path: Path) -> Result<Vec<Vec<u8>>, Failure> {
    let lengths = gather_rows(rank, &(own.len() as u64).to_le_bytes(), 1, path)?;
    let lengths: Vec<usize> = lengths
        .iter()
        .map(|row| row[..8].try_into().map_or(0, u64::from_le_bytes) as usize)
        .collect();
    let rows = lengths.iter().max().map_or(0, |most| most.div_ceil(ROW));
    let mut all = gather_rows(rank, own, rows, path)?;
    for (bytes, length) in all.iter_mut().zip(lengths) {
        bytes.truncate(length);
    }
    Ok(all)
}

/// The same of `rows` rows from each rank, in which `own` fits.
fn gather_rows(rank: &Rank, own: &[u8], rows: usize, path: Path) -> Result<Vec<Vec<u8>>, Failure> {
    let world = rank.world();
    if rows == 0 {
        return Ok(vec![Vec::new(); world]);
    }
    let plan = rank.plan(&gathering(world, world * rows, path))?;
    let (mut x, mut out) = (rank.alloc(rows * ROW)?, rank.alloc(world * rows * ROW)?);
    x.fill(0)?;
    x.upload(own)?;
    let (own, all) = (
        x.mat(rows, COLUMNS, DType::F32)?,
        out.mat_mut(world * rows, COLUMNS, DType::F32)?,
    );
    plan.launch(&Operands::plain(world * rows, own, all))?;
    rank.synchronize()?;
    let all = out.to_vec::<u8>(world * rows * ROW)?;
    Ok(all.chunks(rows * ROW).map(<[u8]>::to_vec).collect())
}
