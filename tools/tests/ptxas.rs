//! What ptxas said of the kernels that are embedded in the program: nothing may spill, use the stack or outgrow its launch
//! bounds. Without nvcc there is nothing to look at: a note, or with `TILEWEAVE_REQUIRE_NVCC=1` a failure.

use std::collections::BTreeMap;

use tileweave::abi::{self, TwParams};

#[allow(dead_code)]
mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

const ENTRIES: &str = include_str!("../../csrc/kernels/entries.h");
const REGISTERS_OF_AN_SM: u32 = 65536;
const MOST_ENTRIES: usize = 60;
const MOST_BYTES: usize = 8 << 20;
const MOST_PARAMETER_BYTES: usize = 4096;

/// The fatbin, or `None` after saying why there is none.
fn fatbin() -> Option<&'static [u8]> {
    if kernels::FATBIN.is_none() {
        let required = std::env::var("TILEWEAVE_REQUIRE_NVCC").is_ok_and(|v| v == "1");
        assert!(!required, "TILEWEAVE_REQUIRE_NVCC=1, but: {}", kernels::REASON);
        println!("skipped: no kernels were built: {}", kernels::REASON);
    }
    kernels::FATBIN
}

/// Launch bounds of an entry point: threads, CTAs per SM.
type Bounds = (u32, u32);

/// The definition of a macro in `entries.h`: its second parameter, if any, and its body.
fn definition(name: &str) -> (Option<&'static str>, String) {
    let start = ENTRIES
        .find(&format!("#define {name}("))
        .unwrap_or_else(|| panic!("no {name} in entries.h"));
    let line = ENTRIES[start..].split("\n#define").next().unwrap();
    let line = line.split("\n\n").next().unwrap();
    let (head, body) = line.split_once(')').unwrap();
    (
        head.split_once(", ").map(|(_, parameter)| parameter),
        body.replace('\\', " "),
    )
}

/// Expands the list of entry points as the preprocessor does.
fn expand(name: &str, argument: Option<&str>, entries: &mut BTreeMap<String, Bounds>) {
    let (parameter, body) = definition(name);
    for call in body.split_inclusive(')').filter(|call| call.contains('(')) {
        let (callee, arguments) = call.trim().trim_end_matches(')').split_once('(').unwrap();
        let arguments: Vec<_> = arguments.split(',').map(str::trim).collect();
        if callee != "X" {
            let passed = arguments.get(1).copied();
            expand(callee, if passed == parameter { argument } else { passed }, entries);
            continue;
        }
        let pasted = match (parameter, argument) {
            (Some(parameter), Some(argument)) => arguments[0]
                .replace(&format!("##{parameter}"), argument)
                .replace("##", ""),
            _ => arguments[0].to_string(),
        };
        let threads = match arguments[1] {
            "TW_TILE_64_THREADS" => abi::TW_TILE_64_THREADS,
            "TW_TILE_128_THREADS" => abi::TW_TILE_128_THREADS,
            "TW_TILE_F32_THREADS" => abi::TW_TILE_F32_THREADS,
            "TW_TILE_MEMORY_THREADS" => abi::TW_TILE_MEMORY_THREADS,
            number => number.parse().unwrap(),
        };
        entries.insert(pasted, (threads, arguments[2].parse().unwrap()));
    }
}

fn entries() -> BTreeMap<String, Bounds> {
    let mut entries = BTreeMap::new();
    expand("TW_ENTRIES", None, &mut entries);
    entries
}

/// The number before `unit` in a line of the report.
fn number(line: &str, unit: &str) -> Option<u32> {
    line.split_once(unit)?
        .0
        .trim_end()
        .rsplit([' ', ','])
        .next()?
        .parse()
        .ok()
}

/// Every entry point's registers, by architecture and name; complains of what no kernel may do.
fn read_report(report: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut found: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    let mut current = None;
    for line in report.lines() {
        assert!(!line.contains("warning"), "{line}");
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, rest)| rest) {
            let mut parts = rest.split('\'');
            let name = parts.next().unwrap().to_string();
            current = Some((parts.nth(1).unwrap().to_string(), name));
        }
        for unit in [
            "bytes stack frame",
            "bytes spill stores",
            "bytes spill loads",
            "bytes lmem",
        ] {
            assert!(matches!(number(line, unit), None | Some(0)), "{current:?}: {line}");
        }
        if let Some(bytes) = number(line, "bytes cmem[0]") {
            // The bank holds up to 1 KiB of the driver's own before the parameters.
            assert!(bytes as usize <= MOST_PARAMETER_BYTES + 1024, "{current:?}: {line}");
        }
        if let Some(registers) = number(line, "registers") {
            let (arch, name) = current.clone().expect("an entry before its registers");
            found.entry(arch).or_default().insert(name, registers);
        }
    }
    found
}

#[test]
fn no_kernel_spills_or_outgrows_its_launch_bounds() {
    let Some(fatbin) = fatbin() else { return };
    assert!(fatbin.len() <= MOST_BYTES, "{} bytes", fatbin.len());
    assert!(size_of::<TwParams>() < MOST_PARAMETER_BYTES);
    let expected = entries();
    assert!(expected.len() <= MOST_ENTRIES, "{} entry points", expected.len());
    let found = read_report(kernels::PTXAS_REPORT);
    assert_eq!(found.keys().collect::<Vec<_>>(), {
        let mut archs: Vec<_> = kernels::ARCHS.iter().map(|arch| arch.to_string()).collect();
        archs.sort();
        archs.leak().iter().collect::<Vec<_>>()
    });
    for (arch, kernels) in found {
        assert_eq!(
            kernels.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "entry points of {arch}"
        );
        for (name, registers) in kernels {
            let (threads, ctas) = expected[&name];
            // Registers are given to warps in blocks of 256: 8 a thread.
            let used = registers.next_multiple_of(8) * threads * ctas;
            assert!(
                used <= REGISTERS_OF_AN_SM,
                "{name} ({arch}): {registers} registers, {threads} threads, {ctas} CTAs"
            );
        }
    }
}

#[test]
fn the_reader_sees_spills() {
    let clean = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, 720 bytes cmem[0]\n";
    assert_eq!(read_report(clean)["sm_80"]["k"], 40);
    for (good, bad) in [
        ("0 bytes stack", "8 bytes stack"),
        ("0 bytes spill st", "4 bytes spill st"),
        ("720", "7200"),
    ] {
        let report = clean.replace(good, bad);
        assert!(std::panic::catch_unwind(|| read_report(&report)).is_err(), "{bad}");
    }
}

#[test]
fn the_list_of_entry_points_is_expanded() {
    let entries = entries();
    assert_eq!(entries["conformance"], (128, 1));
    assert_eq!(entries["gemm_rs_bf16_128"], (abi::TW_TILE_128_THREADS, 1));
    assert_eq!(entries["all_reduce1_f32"], (abi::TW_TILE_MEMORY_THREADS, 2));
}
