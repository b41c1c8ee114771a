//! The text of a violation: what it is, who wrote or read there, and what is missing.

use super::super::fiber::Fiber;
use super::super::machine::Machine;
use super::super::shadow;
use super::asynchronous::describe_asynchronous;
use super::{Trouble, op_name, place_of, site_name, writer};

fn memory(m: &Machine, shared: bool, addr: u64) -> String {
    if shared {
        format!("shared memory at {addr:#x}")
    } else {
        format!("global memory at {}", place_of(m, addr))
    }
}

fn describe(m: &Machine, trouble: Trouble) -> String {
    match trouble {
        Trouble::OutOfBounds {
            shared,
            addr,
            bytes,
            write,
        } => {
            let verb = if write { "writes" } else { "reads" };
            format!(
                "{verb} {bytes} bytes outside any allocation: {}",
                memory(m, shared, addr)
            )
        }
        Trouble::Misaligned { shared, addr, bytes } => {
            format!(
                "accesses {} with an instruction that needs {bytes}-byte alignment",
                memory(m, shared, addr)
            )
        }
        Trouble::NotMapped { addr, owner } => {
            format!(
                "accesses memory of device {owner} that is not mapped for its own device: {}",
                place_of(m, addr)
            )
        }
        Trouble::Uninitialised { shared, addr, bytes } => {
            format!(
                "reads {bytes} bytes that nobody has written since they were allocated or discarded: {}",
                memory(m, shared, addr)
            )
        }
        Trouble::Unordered {
            shared,
            addr,
            bytes,
            tag,
        } => format!(
            "reads {bytes} bytes that another thread wrote, and nothing orders the write before the read: {}; written by {}; \
             missing is a barrier, or a release and an acquire that pair, or a wait for the copy, between the two",
            memory(m, shared, addr),
            writer(m, tag)
        ),
        Trouble::SourceChanged { addr } => {
            format!(
                "the source of a cp.async was written between its issue and its completion: {}",
                memory(m, false, addr)
            )
        }
        Trouble::Unconsumed { addr, tag } => format!(
            "overwrites or discards bytes that another thread has read or discarded, and nothing orders that before: {}; read \
             or discarded by {}; missing is a release behind that and an acquire before this, or a barrier",
            memory(m, false, addr),
            writer(m, tag)
        ),
        Trouble::Overtaken { addr, tag } => format!(
            "reads bytes that a store on its way is about to overwrite: {}; stored by {}; missing is a release behind this \
             read and an acquire before the store",
            memory(m, false, addr),
            writer(m, tag)
        ),
        Trouble::NotMulticast { addr, mapped, write } => format!(
            "multimem {} {addr:#x}, {}",
            if write { "stores to" } else { "loads from" },
            if mapped {
                "which is not mapped for its own device"
            } else {
                "which is no multicast address"
            }
        ),
        Trouble::Unbound { addr, owner } => {
            format!("multimem at {addr:#x}, where device {owner} has bound no memory, or memory that is not mapped")
        }
        Trouble::NoAliasFence { addr, tag } => format!(
            "reads through the switch what was written by an ordinary store, or the reverse, and no alias fence stands between: \
             {}; written by {}; missing is fence_alias behind the write, or behind what makes it known here",
            memory(m, false, addr),
            writer(m, tag)
        ),
        Trouble::BadCopySize { bytes } => format!("cp_async_16 copies {bytes} bytes, more than 16"),
        Trouble::BarrierLeft { site } => {
            format!(
                "the CTA barrier at {} waits for threads that have left the kernel",
                site_name(site)
            )
        }
        Trouble::BarrierSites { first, second } => format!(
            "threads of one CTA meet at different barriers: the first arrived at {}, this one at {}",
            site_name(first),
            site_name(second)
        ),
        Trouble::WarpLeft { op } => format!(
            "lanes of the warp or warpgroup have left the kernel while others are at {}",
            op_name(op)
        ),
        Trouble::WarpOps { first, second } => {
            format!(
                "lanes of one warp or warpgroup have come apart: some are at {}, this one at {}",
                op_name(first),
                op_name(second)
            )
        }
        Trouble::WarpSplit { op, site } => format!(
            "a partly arrived warp: some lanes are at the CTA barrier ({}), others at {}",
            site_name(site),
            op_name(op)
        ),
        Trouble::LanesDisagree { warp, lane } => format!(
            "lanes 0 and {lane} of warp {warp} recorded different ldmatrix and mma instructions: all 32 must do the same"
        ),
        Trouble::RegisterGone => {
            "a register of the mma queue is out of scope at mma_wait: declare operands where the wait is".into()
        }
        Trouble::NoWarpgroup { threads } => format!(
            "a warpgroup is threads 128 i to 128 i + 127: the CTA has {threads}, and this one is behind the last whole 128"
        ),
        Trouble::WarpgroupDisagrees { first, thread } => format!(
            "threads {first} and {thread} of one warpgroup issued different wgmmas or commits: descriptors, accumulators, \
             types, sizes and `add` must be the same in all 128"
        ),
        Trouble::WgmmaUnfenced => "wgmma before any wgmma_fence of this thread".into(),
        Trouble::WgmmaUnwaited => "leaves while wgmmas that it issued have not been committed and waited for".into(),
        Trouble::AccumulatorGone => {
            "an accumulator of wgmma is out of scope at wgmma_wait: declare it where the wait is".into()
        }
        Trouble::Descriptor {
            operand,
            bits,
            field,
            value,
        } => {
            let (name, expected) = field.expected();
            format!("wgmma's descriptor of {operand}, {bits:#x}: {name} is {value}: expected {expected}")
        }
        Trouble::WgmmaReads {
            operand,
            addr,
            tag: shadow::UNWRITTEN,
            ..
        } => format!("wgmma reads of {operand} what nobody has written: shared memory at {addr:#x}"),
        Trouble::WgmmaReads {
            operand,
            addr,
            tag,
            thread,
        } => format!(
            "wgmma reads of {operand} what was not ordered before its issue, or was overwritten before its wait: shared memory \
             at {addr:#x}; written by {}, which thread {thread} did not know of when it issued; missing is a barrier, or a \
             wait, before the wgmma, or before the write",
            writer(m, tag)
        ),
        Trouble::UndefinedOperand { addr } => format!(
            "wgmma reads of B, at {addr:#x} of shared memory, what TMA loaded from memory that nobody had written since it was \
             allocated or discarded: rows of A may be so, B not"
        ),
        Trouble::WgmmaOverwritten { addr, bytes } => format!(
            "overwrites what a wgmma in flight reads: {bytes} bytes of shared memory at {addr:#x}; missing is wgmma_wait, and \
             order behind it"
        ),
        Trouble::BadRegisters { have, count, increase } => format!(
            "reg_{}<{count}> of a warpgroup that has {have} registers a thread: expected {} to {}",
            if increase { "alloc" } else { "dealloc" },
            if increase { have } else { 24 },
            if increase { 256 } else { have },
        ),
        Trouble::BadRow { thread, addr } => format!(
            "stmatrix writes a row, given by thread {thread}, that is not 16 aligned bytes of the CTA's shared memory: {addr:#x}"
        ),
        Trouble::StackOverflow => "the thread's stack ran over".into(),
        Trouble::Strays { led, asked } => format!(
            "{} where its twin on the clock {}: what takes time there is not what is computed here",
            call(asked),
            call(led)
        ),
        Trouble::ClocksRanOut => "a kernel synchronised more often than the machine can count".into(),
        Trouble::By {
            thread,
            addr,
            tag: shadow::UNWRITTEN,
        } => {
            format!(
                "ldmatrix reads a row, given by thread {thread}, that nobody has written: shared memory at {addr:#x}"
            )
        }
        Trouble::By { thread, addr, tag } => format!(
            "ldmatrix reads a row, given by thread {thread}, and nothing orders its write before: shared memory at {addr:#x}; \
             written by {}; missing is a barrier, or a wait for the copy and a barrier",
            writer(m, tag)
        ),
        Trouble::HostRange { addr, bytes } => {
            format!("{bytes} bytes are not inside one allocation: {}", place_of(m, addr))
        }
        Trouble::CopyUnordered { addr, tag } => format!(
            "a copy reads what a kernel wrote that nothing orders before it in its stream: {}; written by {}",
            place_of(m, addr),
            writer(m, tag)
        ),
        Trouble::BadFree { ptr } => format!("free of {ptr:#x}, which alloc did not give"),
        other => describe_asynchronous(m, other),
    }
}

/// By the number of `mx::Call` in `csrc/machine/noted.h`.
const CALLS: [&str; 34] = [
    "nothing",
    "a load",
    "a store",
    "a load of shared memory",
    "a store to shared memory",
    "cp.async",
    "cp.async.commit",
    "a wait for cp.async",
    "ldmatrix",
    "stmatrix",
    "mma",
    "a wait for mma",
    "wgmma",
    "a commit of wgmma",
    "a wait for wgmma",
    "a barrier",
    "the cluster's barrier",
    "a shuffle",
    "mbarrier.init",
    "an arrival at an mbarrier",
    "expect_tx of an mbarrier",
    "a wait for an mbarrier",
    "a TMA load",
    "a TMA store",
    "a bulk copy",
    "a commit of bulk copies",
    "a wait for bulk copies",
    "a store of a word",
    "an atomic with acquire and release",
    "a relaxed addition",
    "a packet",
    "a load through the switch",
    "a store through the switch",
    "an alias fence",
];

/// What was asked of the machine: the inverse of `note` in `csrc/machine/noted.h`.
fn call(what: Option<u64>) -> String {
    match what {
        None => "left its kernel".into(),
        Some(what) => {
            let name = CALLS.get((what >> 56) as usize).unwrap_or(&"an unknown call");
            format!("asked for {name} ({:#x})", what << 8 >> 8)
        }
    }
}

/// Kernel, rank and thread of a fiber.
fn who(m: &Machine, f: &Fiber) -> String {
    // SAFETY: a fiber's CTA outlives it, and nothing runs while a report is written.
    let cta = unsafe { &*f.cta };
    let kernel = m.kernels.get(&cta.kernel).map_or("a finished kernel", |k| k.entry.name);
    format!(
        "device {}, kernel {kernel}, CTA {}, thread {}",
        cta.device, cta.block, f.me.thread
    )
}

pub(in crate::driver::sim) fn fiber_trouble(m: &Machine, trouble: Trouble, f: *mut Fiber) -> String {
    // SAFETY: the fiber that ran into trouble is suspended, and its CTA was not ended.
    let f = unsafe { &*f };
    format!("{}: {}", who(m, f), describe(m, trouble))
}

pub(in crate::driver::sim) fn stream_trouble(m: &Machine, trouble: Trouble) -> String {
    format!("a stream's command: {}", describe(m, trouble))
}

#[cfg(test)]
mod tests {
    use super::CALLS;

    #[test]
    fn every_call_has_a_name() {
        let header = include_str!("../../../../csrc/machine/noted.h");
        let (_, calls) = header.split_once("enum class Call : uint64_t {").expect("the calls");
        let (calls, _) = calls.split_once('}').expect("their end");
        let calls: Vec<_> = calls
            .split(',')
            .map(str::trim)
            .filter(|call| !call.is_empty())
            .collect();
        assert_eq!(calls.len() + 1, CALLS.len());
        let at = |call: &str| 1 + calls.iter().position(|other| other.starts_with(call)).expect("a call");
        for (call, name) in [
            ("Load", "a load"),
            ("Shuffle", "a shuffle"),
            ("Word", "a store of a word"),
            ("AliasFence", "an alias fence"),
        ] {
            assert_eq!(CALLS[at(call)], name);
        }
    }
}
