//! ptxas's report of a build (`-Xptxas=-v`): registers of every entry point, and complaints.

use std::collections::BTreeMap;

const MOST_PARAMETER_BYTES: u32 = 4096;

/// What ptxas says where it gave up something that the source asks for, with or without the word "warning": a setmaxnreg
/// that is dropped (C7507, C7508), wgmma one after the other (C7510 to C7515).
const COMPLAINTS: [&str; 3] = ["warning", "Potential Performance Loss", "'setmaxnreg' ignored"];

/// Registers of a thread, by architecture and entry point.
pub type Registers = BTreeMap<String, BTreeMap<String, u32>>;

/// Reads a report; `Err` are the lines that no kernel may cause, each with its architecture and entry point.
pub fn read(report: &str) -> Result<Registers, Vec<String>> {
    let (mut found, mut bad) = (Registers::new(), Vec::new());
    let (mut arch, mut name) = (String::new(), String::new());
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut words = rest.split('\'').step_by(2).map(str::to_string);
            (name, arch) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        }
        if let Some(registers) = number(line, "registers") {
            found.entry(arch.clone()).or_default().insert(name.clone(), registers);
        }
        if is_bad(line) {
            bad.push(format!("{arch} {name}: {}", line.trim()));
        }
    }
    if bad.is_empty() { Ok(found) } else { Err(bad) }
}

fn is_bad(line: &str) -> bool {
    let local = [
        "bytes stack frame",
        "bytes spill stores",
        "bytes spill loads",
        "bytes lmem",
    ];
    let most = |unit, most| number(line, unit).is_some_and(|bytes| bytes > most);
    COMPLAINTS.iter().any(|complaint| line.contains(complaint))
        || local.iter().any(|unit| most(unit, 0))
        // The bank holds up to 1 KiB of the driver's own before the parameters.
        || most("bytes cmem[0]", MOST_PARAMETER_BYTES + 1024)
}

/// The number before `unit` in a line.
fn number(line: &str, unit: &str) -> Option<u32> {
    line.split_once(unit)?
        .0
        .trim_end()
        .rsplit([' ', ','])
        .next()?
        .parse()
        .ok()
}

#[test]
fn the_reader_sees_what_no_kernel_may_do() {
    let clean = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, 720 bytes cmem[0]\n";
    assert_eq!(read(clean).unwrap()["sm_80"]["k"], 40);
    for (good, bad) in [
        ("0 bytes stack", "8 bytes stack"),
        ("0 bytes spill st", "4 bytes spill st"),
        ("720", "7200"),
        (
            "Used 40",
            "(C7507) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum register requirements.",
        ),
    ] {
        let report = clean.replace(good, bad);
        assert!(read(&report).is_err(), "{bad}");
    }
}
