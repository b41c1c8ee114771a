//! What is said of a fatbin, in `kernels/fatbin/manifest.rs` and of the one just made.

/// What the checked-in manifest says.
#[path = "../../../kernels/fatbin/manifest.rs"]
mod checked_in;

#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub csrc: String,
    pub digest: String,
    pub bytes: u64,
    pub archs: Vec<String>,
    pub nvcc: String,
}

impl Manifest {
    /// The checked-in one.
    pub fn known() -> Manifest {
        Manifest {
            csrc: checked_in::CSRC_DIGEST.into(),
            digest: checked_in::FATBIN_DIGEST.into(),
            bytes: checked_in::FATBIN_BYTES,
            archs: checked_in::ARCHS.iter().map(|arch| arch.to_string()).collect(),
            nvcc: checked_in::NVCC_VERSION.into(),
        }
    }

    /// Whether this is right of what was `made`, if it speaks of the same sources. Between releases it does not: it speaks
    /// of those of the last one.
    pub fn compare(&self, made: &Manifest) -> Result<String, String> {
        let fatbin = format!("{} bytes, SHA-256 {}", made.bytes, made.digest);
        if self.csrc != made.csrc {
            return Ok(format!(
                "csrc has changed since kernels/fatbin/manifest.rs was written; the next release writes it anew. Made \
                 here: {fatbin}"
            ));
        }
        if self == made {
            return Ok(format!("the fatbin of the manifest was made again: {fatbin}"));
        }
        Err(format!(
            "kernels/fatbin/manifest.rs speaks of these sources, but of another fatbin: {self:?}; made here: {made:?}"
        ))
    }

    /// The file.
    pub fn text(&self) -> String {
        let Manifest {
            csrc,
            digest,
            bytes,
            archs,
            nvcc,
        } = self;
        format!(
            "//! What `kernels.fatbin` is, and what it is made from. Written by `cargo run -p tileweave-release`.\n\n\
             /// SHA-256 of the kernels' sources: `kernels::CSRC_DIGEST` of the tileweave that they belong to.\n\
             pub const CSRC_DIGEST: &str = {csrc:?};\n\
             /// SHA-256 of the fatbin.\npub const FATBIN_DIGEST: &str = {digest:?};\n\
             /// Its size.\npub const FATBIN_BYTES: u64 = {bytes};\n\
             /// What is in it: machine code (\"sm_80\") and PTX (\"compute_80\").\n\
             pub const ARCHS: &[&str] = &{archs:?};\n\
             /// Version of the nvcc that made it.\npub const NVCC_VERSION: &str = {nvcc:?};\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Manifest;

    #[test]
    fn the_checked_in_manifest_was_written_by_the_program() {
        let text = include_str!("../../../kernels/fatbin/manifest.rs");
        assert_eq!(Manifest::known().text(), text);
    }

    #[test]
    fn a_fatbin_that_was_not_made_from_these_sources_is_seen() {
        let manifest = Manifest::known();
        let mut other = manifest.clone();
        other
            .digest
            .replace_range(0..1, if other.digest.starts_with('0') { "1" } else { "0" });
        let why = manifest.compare(&other).expect_err("the same sources, another fatbin");
        assert!(why.contains(&other.digest), "{why}");
        other = manifest.clone();
        other.nvcc = "12.9.86".to_string();
        assert!(manifest.compare(&other).is_err(), "another compiler is no excuse");
        // Between releases nothing can be compared.
        other.csrc.push('0');
        let said = manifest.compare(&other).expect("other sources");
        assert!(said.contains("csrc has changed"), "{said}");
        assert!(manifest.compare(&manifest).expect("itself").contains("made again"));
    }
}
