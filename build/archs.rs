//! What nvcc compiles for:
//!
//! - sm_80: runs on all of 8.x;
//! - sm_90a: Hopper with its own instructions;
//! - sm_100f (nvcc 12.9 and later, else sm_100a): the family of B200 and B300, the Blackwell parts with NVLink. The
//!   families 110f and 120f have no peers to talk to;
//! - where it is asked for ("80+ptx"), PTX beside the machine code: the driver compiles it for GPUs of the same and later
//!   capabilities that have no machine code here, and they run the portable kernels.

/// A target of nvcc's.
#[derive(Debug, PartialEq)]
pub struct Arch {
    /// "80", "90a", "100f".
    name: String,
    ptx: bool,
}

impl Arch {
    /// nvcc's option. By `-gencode`: `-arch=sm_90a` would add a pass for plain compute_90.
    pub fn option(&self) -> String {
        let (name, contents) = (&self.name, self.contents().join(","));
        if self.ptx {
            format!("-gencode=arch=compute_{name},code=[{contents}]")
        } else {
            format!("-gencode=arch=compute_{name},code={contents}")
        }
    }

    /// "sm_80", and "compute_80".
    pub fn contents(&self) -> Vec<String> {
        let machine_code = format!("sm_{}", self.name);
        let ptx = self.ptx.then(|| format!("compute_{}", self.name));
        [Some(machine_code), ptx].into_iter().flatten().collect()
    }

    fn parse(word: &str) -> Option<Arch> {
        let (code, ptx) = word.strip_suffix("+ptx").map_or((word, false), |code| (code, true));
        let name = code.strip_prefix("sm_").unwrap_or(code);
        let plain = name.strip_suffix(['a', 'f']).unwrap_or(name);
        // PTX with an `a` or an `f` is no good for the GPUs that PTX is for: those that are not there yet.
        let number = plain.parse::<u32>().ok().filter(|_| !ptx || plain == name)?;
        (number >= 80).then(|| Arch {
            name: name.to_string(),
            ptx,
        })
    }
}

/// Those of a list like "80+ptx,90a,100f"; none of the empty text, which is as if nothing was said.
pub fn parse(list: &str) -> Result<Vec<Arch>, String> {
    let parse = |word: &str| {
        Arch::parse(word).ok_or_else(|| {
            format!(
                "TILEWEAVE_CUDA_ARCHS names {word:?}: expected sm_80 or later, like 80,90a,100f; with PTX besides \
                 the machine code only without a letter, like 80+ptx"
            )
        })
    };
    let words = list.split([',', ' ']).filter(|word| !word.is_empty());
    let archs: Vec<Arch> = words.map(parse).collect::<Result<_, _>>()?;
    match archs.is_empty() && !list.is_empty() {
        true => Err(format!(
            "TILEWEAVE_CUDA_ARCHS is {list:?}, which names nothing: expected a list like 80,90a,100f"
        )),
        false => Ok(archs),
    }
}

/// All that this nvcc knows, by its version and what `--list-gpu-code` prints.
pub fn choose(known: &str, version: (u32, u32)) -> Vec<Arch> {
    let blackwell = if version >= (12, 9) { "100f" } else { "100a" };
    let known: Vec<_> = known.split_whitespace().collect();
    let wanted = [("sm_80", "80"), ("sm_90", "90a"), ("sm_100", blackwell)].into_iter();
    wanted
        .filter(|(base, _)| known.contains(base))
        .filter_map(|(_, arch)| Arch::parse(arch))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn options(list: &str) -> Result<Vec<String>, String> {
        Ok(parse(list)?.iter().map(|arch| arch.option()).collect())
    }

    #[test]
    fn lists_become_options() {
        let options = options("80+ptx, sm_90a,100f").expect("a good list");
        assert_eq!(
            options,
            [
                "-gencode=arch=compute_80,code=[sm_80,compute_80]",
                "-gencode=arch=compute_90a,code=sm_90a",
                "-gencode=arch=compute_100f,code=sm_100f"
            ]
        );
        let both = parse("80+ptx").expect("a good list");
        assert_eq!(both[0].contents(), ["sm_80", "compute_80"]);
    }

    #[test]
    fn what_is_no_architecture_is_named() {
        for bad in ["75", "90b", "90a+ptx", "ptx", "80+", "sm_", "8.0"] {
            let list = format!("80,{bad}");
            let why = options(&list).expect_err(bad);
            assert!(
                why.contains(&format!("{bad:?}")) && why.contains("80,90a,100f"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_list_of_nothing_is_refused() {
        assert_eq!(parse(""), Ok(vec![]));
        for list in [",", " ", ", ,"] {
            let why = options(list).expect_err("an empty list");
            assert!(
                why.contains(&format!("{list:?}")) && why.contains("names nothing"),
                "{why}"
            );
        }
    }

    #[test]
    fn the_newest_that_a_compiler_knows_are_chosen() {
        let names = |known, version| {
            super::choose(known, version)
                .iter()
                .flat_map(|arch| arch.contents())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("sm_75 sm_80 sm_90 sm_100", (12, 9)),
            ["sm_80", "sm_90a", "sm_100f"]
        );
        assert_eq!(
            names("sm_75 sm_80 sm_90 sm_100", (12, 8)),
            ["sm_80", "sm_90a", "sm_100a"]
        );
        assert_eq!(names("sm_80 sm_90", (12, 5)), ["sm_80", "sm_90a"]);
    }
}
