//! What the ranks of one group share before they know of each other.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// 128 bytes that all ranks of a group share, and no other group's. They are only hashed: a spent NCCL id will do. How they get
/// from rank to rank is the caller's affair (an argument, a file, a socket of its own); under a launcher,
/// [`Environment::id`](crate::Environment::id) gives equal ones to all.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 128]);

impl Id {
    /// One that nobody else has.
    ///
    /// # Errors
    /// The operating system's, where it has no random numbers.
    pub fn random() -> Result<Id> {
        let mut bytes = [0; 128];
        fill(&mut bytes)?;
        Ok(Id(bytes))
    }

    /// One for each value of `words`, of any length, such as a job's name.
    pub fn of(words: impl AsRef<[u8]>) -> Id {
        let mut bytes = [0; 128];
        bytes[..32].copy_from_slice(&Sha256::digest(words.as_ref()));
        Id(bytes)
    }

    /// A hash of it, for one `purpose`; what is made for one tells nothing of another's.
    pub(crate) fn digest(&self, purpose: &str) -> String {
        digest([purpose.as_bytes(), &self.0])
    }
}

/// SHA-256 in hexadecimal of all of `parts`, of which none runs into the next.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Random bytes.
pub(super) fn fill(mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut *bytes, flags) {
            Ok(got) => bytes = &mut bytes[got..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(Error::Driver {
                    call: "getrandom",
                    code: error.raw_os_error().into(),
                    message: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

impl From<[u8; 128]> for Id {
    fn from(bytes: [u8; 128]) -> Id {
        Id(bytes)
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Id({}..)", &self.digest("debug")[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_as_what_they_are_made_from() {
        assert_ne!(Id::random().unwrap(), Id::random().unwrap());
        assert_eq!(Id::of("job 7"), Id::of(b"job 7"));
        assert_ne!(Id::of("job 7"), Id::of("job 8"));
        let mut bytes = [0; 128];
        let zero = Id::from(bytes);
        bytes[127] = 1;
        assert_ne!(zero.digest("name"), Id(bytes).digest("name"));
        assert_ne!(zero.digest("name"), zero.digest("other"));
    }

    #[test]
    fn a_digest_is_the_standard_one_of_lengths_and_parts() {
        // printf '\x02\0\0\0\0\0\0\0ab\x01\0\0\0\0\0\0\0c' | sha256sum
        let expected = "43ee655579de01ca";
        let got = digest([b"ab".as_slice(), b"c"]);
        assert_eq!(got.len(), 64);
        assert_ne!(got, digest([b"a".as_slice(), b"bc"]));
        assert_eq!(&got[..16], expected);
    }
}
