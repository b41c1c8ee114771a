//! Every function of `csrc/machine`, and of `csrc/tile/functions.h`, against values computed here, bit for bit: on the simulated node, and with
//! `TILEWEAVE_GPU=1` on this machine's GPU (Hopper's cases on a Hopper). The cases' device side is
//! `csrc/kernels/conformance.h` and `conformance_hopper.h`.

#[path = "../common/mod.rs"]
mod common;
mod expected;
mod functions;
mod hopper;
mod multicast;
mod run;

macro_rules! cases {
    ($list:ident of $module:ident: $($name:ident),* $(,)?) => {
        const $list: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                $module::$name(&run::Case::of(stringify!($name)));
            }
        )*
    };
}

// In the order of TW_CONFORMANCE_CASES.
cases!(
    CASES of expected:
    identity,
    shared_base,
    barrier,
    votes,
    warp,
    shared_widths,
    global_widths,
    async_copy,
    matrices,
    matrices_turned,
    mma_bf16,
    mma_f16,
    words,
    message,
    atomics,
    packets,
    clock,
    arithmetic,
    conversions,
    hints,
    functions,
);

// In the order of TW_CONFORMANCE_HOPPER_CASES.
cases!(
    HOPPER_CASES of hopper:
    clusters,
    cluster_barrier,
    named_barriers,
    registers,
    mbarrier_phases,
    mbarriers_of_others,
    tma_2d,
    tma_4d,
    multicast,
    tma_store,
    bulk_copy,
    generic_then_tma,
    matrices_back,
    shared_b64,
    wgmma_bf16,
    wgmma_f16,
);

// In the order of TW_CONFORMANCE_MULTICAST_CASES. On the simulated node alone: on GPUs they need a team of several.
cases!(
    MULTICAST_CASES of multicast:
    switch_sums,
    switch_stores,
);

const MACHINE: &str = include_str!("../../docs/machine.md");
const KERNEL: &str = include_str!("../../csrc/kernels/conformance.h");
const HOPPER_KERNEL: &str = include_str!("../../csrc/kernels/conformance_hopper.h");
const MULTICAST_KERNEL: &str = include_str!("../../csrc/kernels/conformance_multicast.h");

/// Functions that `docs/machine.md` declares, those of Hopper among them.
fn declared() -> Vec<&'static str> {
    let blocks = MACHINE
        .split("```c++")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let code = blocks
        .flat_map(str::lines)
        .map(|line| line.split("//").next().unwrap())
        .filter(|line| !line.starts_with("struct"));
    let mut names: Vec<_> = code
        .flat_map(|line| line.match_indices('(').map(move |(at, _)| &line[..at]))
        .filter_map(|before| before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_function_of_the_machine_has_a_case() {
    let declared = declared();
    assert!(declared.len() > 75, "{declared:?}");
    assert!(
        declared.contains(&"ld_packet") && declared.contains(&"wgmma_wait"),
        "{declared:?}"
    );
    let called = |name: &str, after: char| {
        [KERNEL, HOPPER_KERNEL, MULTICAST_KERNEL]
            .iter()
            .any(|k| k.contains(&format!("mx::{name}{after}")))
    };
    let missing: Vec<_> = declared
        .iter()
        .filter(|name| !called(name, '(') && !called(name, '<'))
        .collect();
    assert!(missing.is_empty(), "no case calls {missing:?}");
}

#[test]
fn every_case_is_run() {
    assert_eq!(run::listed_cases(), [CASES, HOPPER_CASES, MULTICAST_CASES].concat());
}
