//! The node, and the tables of what callers hold. The lock of the tables is never held while the node is waited for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Place, Stream};

use crate::answer::{Answer, Code, INVALID, Out, code_of};
use crate::context::Context;
use crate::event::Event;
use crate::graph::{Executable, Graph};
use crate::green::Partition;
use crate::handles::{Handles, Of};
use crate::memory::Memory;
use crate::pool::Pool;
use crate::stream::StreamEntry;
use crate::virtual_memory::{Named, Reservation};

/// The version that the stand-in gives itself: CUDA 13.0.
const VERSION: i32 = 13_000;

pub(crate) struct Machine {
    pub sim: SimNode,
    /// Devices that callers see; the node numbers them as they do.
    pub devices: usize,
    pub sms: u32,
    tables: Mutex<Tables>,
}

pub(crate) struct Tables {
    /// By ordinal, of each device: its primary context, and how often it is retained.
    pub primary: Vec<Option<(usize, usize)>>,
    pub contexts: Handles<Context>,
    pub streams: Handles<StreamEntry>,
    pub events: Handles<Event>,
    pub pools: Handles<Pool>,
    pub libraries: Handles<()>,
    pub graphs: Handles<Graph>,
    pub executables: Handles<Executable>,
    pub partitions: Handles<Partition>,
    /// By address.
    pub memory: BTreeMap<u64, Memory>,
    pub named: BTreeMap<u64, Named>,
    /// How many more handles memory has that was imported where it is known.
    pub imports: BTreeMap<u64, usize>,
    pub reservations: BTreeMap<u64, Reservation>,
    /// Streams of the node whose handles are gone, with work that is not done.
    pub dying: Vec<Stream>,
}

static MACHINE: OnceLock<Answer<Machine>> = OnceLock::new();

/// The machine, once it is initialised.
pub(crate) fn machine() -> Answer<&'static Machine> {
    match MACHINE.get() {
        Some(Ok(machine)) => Ok(machine),
        Some(Err(code)) => Err(*code),
        None => Err(Code::CUDA_ERROR_NOT_INITIALIZED),
    }
}

calls! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(INVALID);
        }
        MACHINE.get_or_init(start).as_ref().map(drop).map_err(|code| *code)
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.put(VERSION)
    }
}

/// A number in the environment.
fn number(name: &str, default: u64) -> Answer<u64> {
    match std::env::var(name) {
        Ok(text) => text.trim().parse().map_err(|_| {
            eprintln!("stand-in: {name} is {text:?}, which is no number");
            Code::CUDA_ERROR_UNKNOWN
        }),
        Err(_) => Ok(default),
    }
}

/// As CUDA reads it: up to the first that is no device.
fn visible(gpus: usize) -> Vec<usize> {
    let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") else {
        return (0..gpus).collect();
    };
    list.split(',')
        .map_while(|entry| entry.trim().parse().ok().filter(|ordinal| *ordinal < gpus))
        .collect()
}

fn start() -> Answer<Machine> {
    let gpus = number("TILEWEAVE_STAND_IN_GPUS", 2)? as usize;
    let mut config = SimConfig::new(gpus, number("TILEWEAVE_STAND_IN_SEED", 0)?);
    config.sms = number("TILEWEAVE_STAND_IN_SMS", 8)? as u32;
    config.multicast = number("TILEWEAVE_STAND_IN_MULTICAST", 0)? != 0;
    config.free_running = true;
    let (sms, visible) = (config.sms, visible(gpus));
    if visible.is_empty() {
        return Err(Code::CUDA_ERROR_NO_DEVICE);
    }
    let devices = visible.len();
    config.visible = Some(visible);
    let sim = SimNode::new(config).map_err(|error| {
        eprintln!("stand-in: {error}");
        code_of(error)
    })?;
    let tables = Tables {
        primary: vec![None; devices],
        contexts: Handles::new(Of::Context),
        streams: Handles::new(Of::Stream),
        events: Handles::new(Of::Event),
        pools: Handles::new(Of::Pool),
        libraries: Handles::new(Of::Library),
        graphs: Handles::new(Of::Graph),
        executables: Handles::new(Of::Executable),
        partitions: Handles::new(Of::Partition),
        memory: BTreeMap::new(),
        named: BTreeMap::new(),
        imports: BTreeMap::new(),
        reservations: BTreeMap::new(),
        dying: Vec::new(),
    };
    Ok(Machine {
        sim,
        devices,
        sms,
        tables: Mutex::new(tables),
    })
}

impl Machine {
    pub fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That there is such a device.
    pub fn ordinal(&self, device: sys::CUdevice) -> Answer<usize> {
        usize::try_from(device)
            .ok()
            .filter(|ordinal| *ordinal < self.devices)
            .ok_or(Code::CUDA_ERROR_INVALID_DEVICE)
    }

    /// All of a device, by its ordinal.
    pub fn whole(&self, ordinal: usize) -> Place {
        Place {
            device: ordinal,
            share: 0,
            shares: 1,
        }
    }
}
