//! Where a case runs: on a described machine, by prediction, or on this machine's GPUs.

use std::sync::Arc;
use std::time::Duration;

use tileweave::driver::sim::SimConfig;
use tileweave::driver::{Driver, Place};
use tileweave::machines::{Description, Kind};
use tileweave::route::model::Work;
use tileweave::route::{self, Allowed, decide};
use tileweave::{DType, GroupConfig, NcclPolicy, Node, Numerics, OpSpec, Path, Rank};

use super::args::OverlapArgs;
use crate::bench::operands::Pool;
use crate::described;
use crate::device::{self, Machine};
use crate::failure::Failure;

const NODE: &str = "h100x8";
/// The bound on waits, of simulated time and of a GPU's: a kernel of the largest case takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);
/// Values that operands of a GPU are filled from. Not a power of two: rows of matrices begin at different values.
const POOL: usize = (8 << 20) - 3;

/// What is asked about.
pub enum Subject {
    /// A described node; what its kernels take is predicted.
    Described { node: Box<Description>, seed: u64 },
    /// This machine's GPUs.
    Cuda { driver: Arc<dyn Driver>, name: String },
}

impl Subject {
    pub fn of(args: &OverlapArgs) -> Result<Subject, Failure> {
        if args.device.is_some() {
            let Machine::Cuda(driver) = device::choose(crate::cli::Device::Cuda)? else {
                return Err(Failure::unavailable("--device cuda found no GPU"));
            };
            let place = Place {
                device: 0,
                share: 0,
                shares: 1,
            };
            let name = format!("{} x {}", driver.device_count(), driver.place_info(place)?.name);
            return Ok(Subject::Cuda { driver, name });
        }
        let node = described::node(args.node.as_deref().unwrap_or(NODE))?;
        Ok(Subject::Described {
            node: Box::new(node),
            seed: args.seed,
        })
    }

    /// `node` in the JSON.
    pub fn name(&self) -> &str {
        match self {
            Subject::Described { node, .. } => &node.name,
            Subject::Cuda { name, .. } => name,
        }
    }

    /// `kind` in the JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Described { .. } => "predicted",
            Subject::Cuda { .. } => "measured",
        }
    }

    fn gpus(&self) -> usize {
        match self {
            Subject::Described { node, .. } => node.gpus as usize,
            Subject::Cuda { driver, .. } => driver.device_count(),
        }
    }

    /// Ranks where the user names no number. One GPU alone shows no communication: 4 share it.
    pub fn default_ranks(&self) -> usize {
        match self.gpus() {
            0 | 1 => 4,
            gpus => gpus.min(16),
        }
    }

    /// Whether so many ranks run there. Ranks share a described GPU where it is alone; on this machine they always may.
    pub fn check_ranks(&self, ranks: usize) -> Result<(), Failure> {
        let Subject::Described { node, .. } = self else {
            return Ok(());
        };
        if node.link.kind == Kind::Shared || ranks <= node.gpus as usize {
            return Ok(());
        }
        let expected = format!("at most the {} GPUs of {}", node.gpus, node.name);
        Err(Failure::bad_value("--ranks", ranks, &expected))
    }

    /// A node to make groups on, with what operands are filled from where the machine looks at them.
    fn node(&self) -> tileweave::Result<Node> {
        match self {
            Subject::Described { node, seed } => clocked(node, *seed),
            Subject::Cuda { driver, .. } => Ok(Node::new(driver.clone())),
        }
    }

    /// Ranks whose heap holds all of `specs`.
    pub fn group(&self, specs: &[OpSpec], ranks: usize, numerics: Numerics) -> tileweave::Result<Vec<Rank>> {
        let config = GroupConfig::default().deadline(DEADLINE).numerics(numerics);
        self.node()?.group(ranks, &config.sized_for(specs, ranks)?)
    }

    /// What operands are filled from; `None`: nobody looks at them.
    pub fn pool(&self) -> Option<Pool> {
        match self {
            Subject::Described { .. } => None,
            Subject::Cuda { .. } => Some(Pool::new(POOL)),
        }
    }

    /// The described machine as its routes see it.
    pub fn machine(&self, ranks: usize) -> Option<route::Machine> {
        match self {
            Subject::Described { node, .. } => Some(route::Machine::described(node, ranks)),
            Subject::Cuda { .. } => None,
        }
    }

    /// The path that a plan takes for this work on a described machine whose description is all that is known of it. A
    /// plan decides for the last M of a bucket (`docs/routes.md`).
    pub fn route(machine: &route::Machine, work: Work) -> Path {
        let defaults = GroupConfig::default();
        let allowed = Allowed {
            one_shot_bytes: defaults.one_shot_bytes as u64,
            numerics: defaults.numerics,
            nccl: if machine.gpus < machine.world {
                NcclPolicy::Never
            } else {
                defaults.nccl
            },
            exchanges: route::exchanges(work.op),
        };
        let m = work.m.next_power_of_two();
        decide(machine, &Work { m, ..work }, &allowed).path
    }
}

/// One rank's GEMM, or a message, in the words of the routes' model.
pub fn work(op: tileweave::Op, m: usize, n: usize, k: usize) -> Work {
    let dtype = DType::Bf16;
    Work {
        op,
        m: m as u64,
        n: n as u64,
        k: k as u64,
        dtype,
        wire: dtype,
    }
}

/// The node of a description, with its clock.
fn clocked(node: &Description, seed: u64) -> tileweave::Result<Node> {
    Node::sim(SimConfig::clocked(node, seed))
}
