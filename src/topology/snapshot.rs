//! Snapshot files: a [`Topology`] as JSON, a line for every GPU, NVLink and pair, so that two machines can be compared line by line.
//!
//! The version is read before everything else: of a file of another version nothing more is said than that. Every error names the field, and, from a file, the file.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, Serializer};

use super::{Topology, VERSION};
use crate::error::{Error, Result};

impl Topology {
    /// A topology from a snapshot's text, [checked](Topology::check).
    ///
    /// # Errors
    /// [`Error::BadArgument`], which names the field: not JSON, cut off, another version, unknown or missing fields, contradictions.
    pub fn from_json(text: &str) -> Result<Topology> {
        #[derive(Deserialize)]
        struct Version {
            version: Option<serde_json::Value>,
        }
        match serde_json::from_str::<Version>(text).map_err(|e| not_json(&e))?.version {
            Some(version) if version == VERSION => {}
            Some(version) => return Err(Error::bad_argument("version", version, VERSION.to_string())),
            None => return Err(Error::bad_argument("version", "missing", VERSION.to_string())),
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let topology: Topology = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
            let path = e.path().to_string();
            let name = if path == "." { "snapshot".to_string() } else { path };
            let expected = format!("as snapshots of version {VERSION} have it ({})", e.into_inner());
            Error::bad_argument(name, "not readable", expected)
        })?;
        topology.check()?;
        Ok(topology)
    }

    /// A snapshot's text; [`Topology::from_json`] gives back an equal value.
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut text, Lines::default());
        self.serialize(&mut serializer)
            .expect("writing to memory: every key is a string, and the formatter does not fail");
        text.push(b'\n');
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// Reads a snapshot file.
    ///
    /// # Errors
    /// As [`Topology::from_json`], and where the file cannot be read; each names the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Topology> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::bad_argument("snapshot", path.display(), format!("a file that can be read ({e})")))?;
        Topology::from_json(&text).map_err(|e| match e {
            Error::BadArgument { name, value, expected } => Error::BadArgument {
                name: format!("{}: {name}", path.display()),
                value,
                expected,
            },
            other => other,
        })
    }

    /// Writes a snapshot file, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, self.to_json())
            .map_err(|e| Error::bad_argument("snapshot", path.display(), format!("a file that can be written ({e})")))
    }
}

fn not_json(e: &serde_json::Error) -> Error {
    let at = format!("line {} column {}", e.line(), e.column());
    match e.classify() {
        serde_json::error::Category::Eof => {
            Error::bad_argument("snapshot", format!("cut off at {at}"), "a whole snapshot file")
        }
        _ => Error::bad_argument("snapshot", format!("no JSON object ({e})"), "a snapshot file"),
    }
}

/// JSON with a line for each field of the outermost object and for each object in an array.
#[derive(Default)]
struct Lines {
    /// For every array and object that is open, outermost first.
    open: Vec<Open>,
}

struct Open {
    array: bool,
    /// Whether something in it began a line, so that its end does too.
    lines: bool,
}

impl Lines {
    fn new_line<W: ?Sized + Write>(&self, writer: &mut W, depth: usize) -> io::Result<()> {
        write!(writer, "\n{:1$}", "", 2 * depth)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        if self.open.pop().is_some_and(|open| open.lines) {
            // Objects of one line take no depth of their own.
            self.new_line(writer, self.depth())?;
        }
        writer.write_all(mark)
    }

    /// How far what begins a line now is moved to the right.
    fn depth(&self) -> usize {
        self.open.iter().filter(|open| open.lines).count()
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open.push(Open {
            array: true,
            lines: false,
        });
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b"," })
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let outermost = self.open.is_empty();
        if let Some(parent) = self.open.last_mut().filter(|parent| parent.array) {
            parent.lines = true;
            self.new_line(writer, self.depth())?;
        }
        self.open.push(Open {
            array: false,
            lines: outermost,
        });
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b"," })?;
        if self.open.len() == 1 {
            return self.new_line(writer, 1);
        }
        writer.write_all(if first { b"" } else { b" " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
