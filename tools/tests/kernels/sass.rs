//! Machine code, disassembled by NVIDIA's cuobjdump (which runs nvdisasm): which instructions each entry point has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// How often each entry point has each instruction. An instruction is its name to the first dot: `HGMMA`, `UTMALDG`.
pub type Instructions = BTreeMap<String, BTreeMap<String, u32>>;

/// `$CUOBJDUMP`, else that of `$CUDA_HOME`, else the first on `$PATH`.
pub fn disassembler() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let program = format!("cuobjdump{}", env::consts::EXE_SUFFIX);
    let of_cuda = set("CUDA_HOME").map(|home| home.join("bin").join(&program));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(&program));
    set("CUOBJDUMP")
        .into_iter()
        .chain(of_cuda)
        .chain(on_path)
        .find(|file| file.is_file())
}

/// Disassembles a fatbin's machine code for `arch`.
pub fn disassemble(cuobjdump: &Path, fatbin: &[u8], arch: &str) -> Instructions {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{}-{arch}.fatbin", std::process::id()));
    fs::write(&file, fatbin).unwrap();
    // It looks for nvdisasm on the path: the one beside it comes first.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = cuobjdump
        .parent()
        .map(Path::to_path_buf)
        .into_iter()
        .chain(env::split_paths(&path));
    let output = Command::new(cuobjdump)
        .args(["-sass", "-arch", arch])
        .arg(&file)
        .env("PATH", env::join_paths(folders).unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{cuobjdump:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    count(&text)
}

/// Counts a listing: `Function : name`, then lines such as `/*0130*/  @P0 LDC.64 R2, c[0x0][0x8] ;  /* 0x… */`.
fn count(listing: &str) -> Instructions {
    let mut found = Instructions::new();
    let mut current = None;
    for line in listing.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = Some(found.entry(name.trim().to_string()).or_default());
        } else if let (Some(counts), Some(name)) = (&mut current, instruction(line)) {
            *counts.entry(name.to_string()).or_default() += 1;
        }
    }
    found
}

fn instruction(line: &str) -> Option<&str> {
    let (offset, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    u32::from_str_radix(offset, 16).ok()?;
    let mut words = rest
        .split_whitespace()
        .skip_while(|word| word.starts_with('@') || *word == "{");
    let name = words.next()?.split('.').next()?.trim_end_matches(';');
    (!name.starts_with("/*")).then_some(name)
}

#[test]
fn instructions_are_counted() {
    let listing = "\tcode for sm_90a\n\t\tFunction : k\n\t.headerflags\t@\"EF_CUDA_SM90\"\n\
        /*0000*/                   LDC R1, c[0x0][0x28] ;     /* 0x00000a00ff017b82 */\n\
                                                              /* 0x000ff00000000800 */\n\
        /*0010*/              @!P0 HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, UP0 ; /* 0x1 */\n\
        /*0020*/                   NOP;\n\
        /*0030*/                   NOP;\n\t\tFunction : other\n/*0000*/ EXIT ;\n";
    let found = count(listing);
    let of_k: Vec<_> = found["k"].iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(of_k, [("HGMMA", 1), ("LDC", 1), ("NOP", 2)]);
    assert_eq!(found["other"]["EXIT"], 1);
}
