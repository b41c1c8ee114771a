//! Every way to fail: one line for a person, an object for a program, an exit code for a script.

use serde_json::{Map, Value, json};
use tileweave::{Error, WaitCause, WaitRecord};

/// `error.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BadInput,
    WrongResult,
    Timeout,
    PeerExited,
    Disagreement,
    Aborted,
    Unavailable,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::BadInput,
        Kind::WrongResult,
        Kind::Timeout,
        Kind::PeerExited,
        Kind::Disagreement,
        Kind::Aborted,
        Kind::Unavailable,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::BadInput => "bad_input",
            Kind::WrongResult => "wrong_result",
            Kind::Timeout => "timeout",
            Kind::PeerExited => "peer_exited",
            Kind::Disagreement => "disagreement",
            Kind::Aborted => "aborted",
            Kind::Unavailable => "unavailable",
        }
    }

    pub fn exit_code(self) -> u8 {
        match self {
            Kind::WrongResult => 1,
            Kind::BadInput => 2,
            Kind::Timeout | Kind::PeerExited | Kind::Disagreement | Kind::Aborted => 3,
            Kind::Unavailable => 4,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: Kind,
    /// One line.
    pub message: String,
    /// What stands in the JSON beside kind and message.
    pub details: Map<String, Value>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl AsRef<str>) -> Self {
        Failure {
            kind,
            message: one_line(message.as_ref()),
            details: Map::new(),
        }
    }

    pub fn bad_input(message: impl AsRef<str>) -> Self {
        Failure::new(Kind::BadInput, message)
    }

    /// What was given and what would be right, in the words of the library's own errors.
    pub fn bad_value(name: &str, value: impl std::fmt::Display, expected: &str) -> Self {
        Failure::bad_input(format!("{name} is {value}: expected {expected}"))
    }

    pub fn unavailable(message: impl AsRef<str>) -> Self {
        Failure::new(Kind::Unavailable, message)
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }

    /// What [`Failure::to_json`] of another process of this program has written.
    pub fn from_json(mut error: Map<String, Value>) -> Self {
        let kind = error.remove("kind");
        let kind = Kind::ALL
            .into_iter()
            .find(|known| kind.as_ref().is_some_and(|kind| kind == known.name()));
        let message = error.remove("message");
        Failure {
            kind: kind.unwrap_or(Kind::Aborted),
            message: message.as_ref().and_then(Value::as_str).unwrap_or("no message").into(),
            details: error,
        }
    }

    pub fn to_json(&self) -> String {
        let mut error = Map::new();
        error.insert("kind".into(), self.kind.name().into());
        error.insert("message".into(), self.message.as_str().into());
        error.extend(self.details.clone());
        json!({ "error": error }).to_string()
    }
}

/// Runs of white space and line ends become one space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match &error {
            Error::Poisoned(first) => Failure::from((**first).clone()),
            Error::Wait { root, verdict, chain } => {
                let kind = if root.cause == WaitCause::Disagreed {
                    Kind::Disagreement
                } else {
                    Kind::Timeout
                };
                let chain: Vec<Value> = chain.iter().map(wait_json).collect();
                let mut failure = Failure::new(kind, message)
                    .with("verdict", verdict.as_str())
                    .with("chain", chain);
                if let Value::Object(fields) = wait_json(root) {
                    failure.details.extend(fields);
                }
                failure
            }
            Error::Disagreed {
                epoch,
                rank,
                peer,
                ours,
                theirs,
            } => {
                let op = ours.split([' ', ',', '(', '{']).next().unwrap_or(ours);
                Failure::new(Kind::Disagreement, message)
                    .with("op", op)
                    .with("epoch", *epoch)
                    .with("rank", *rank)
                    .with("peer", *peer)
                    .with("tile", 0)
                    .with("expected", ours.as_str())
                    .with("seen", theirs.as_str())
                    .with("chain", Vec::<Value>::new())
            }
            Error::Missing {
                at,
                rank,
                missing,
                left,
                waited,
            } => {
                let peer = missing.iter().chain(left).next().copied().unwrap_or(*rank);
                let wait = json!({
                    "op": at.trim_start_matches("the ").replace(' ', "-"), "epoch": 0, "rank": rank, "peer": peer, "tile": 0, "expected": 0, "seen": 0,
                    "waited_ms": waited.as_secs_f64() * 1e3,
                });
                let mut failure = Failure::new(Kind::Timeout, message).with("chain", vec![wait.clone()]);
                if let Value::Object(fields) = wait {
                    failure.details.extend(fields);
                }
                failure
            }
            Error::PeerExited { rank, .. } => Failure::new(Kind::PeerExited, message).with("peer", *rank),
            Error::Mismatch { rank, peer, .. } => Failure::new(Kind::Disagreement, message)
                .with("rank", *rank)
                .with("peer", *peer),
            Error::Aborted { .. } => Failure::new(Kind::Aborted, message),
            Error::Simulator { .. } => Failure::new(Kind::WrongResult, message),
            // Here the program chose the heap: whoever reads this chose the sizes.
            Error::HeapTooSmall { what, need, have } => Failure::bad_input(format!(
                "{what} needs a heap of {need} bytes on every rank, and the program gives it {have}, its share of memory: \
                 expected smaller --m, --n or --k, or other --ranks"
            )),
            Error::BadArgument { .. } => Failure::bad_input(message),
            _ => Failure::unavailable(message),
        }
    }
}

/// A wait as `chain` lists it, and as the error object holds the root's.
fn wait_json(wait: &WaitRecord) -> Value {
    json!({
        "op": wait.op,
        "epoch": wait.epoch,
        "rank": wait.rank,
        "peer": wait.peer,
        "waited_for": format!("{:?}", wait.kind).to_lowercase(),
        "cause": format!("{:?}", wait.cause).to_lowercase(),
        "tile": wait.tile,
        "expected": wait.expected,
        "seen": wait.seen,
        "waited_ms": wait.waited_ns as f64 / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contract() {
        let codes = [
            (Kind::WrongResult, 1),
            (Kind::BadInput, 2),
            (Kind::Timeout, 3),
            (Kind::PeerExited, 3),
            (Kind::Disagreement, 3),
            (Kind::Aborted, 3),
            (Kind::Unavailable, 4),
        ];
        for (kind, code) in codes {
            assert_eq!(kind.exit_code(), code, "{kind:?}");
        }
    }

    #[test]
    fn a_small_heap_is_told_in_the_programs_words() {
        let failure = Failure::from(Error::HeapTooSmall {
            what: "one row block".into(),
            need: 4096,
            have: 1024,
        });
        assert_eq!(failure.kind, Kind::BadInput);
        for part in ["one row block", "4096", "1024", "expected smaller --m, --n or --k"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        assert!(!failure.message.contains("GroupConfig"), "{}", failure.message);
    }

    #[test]
    fn a_poisoned_group_reports_what_poisoned_it() {
        let (ours, theirs) = ("gemm-all-reduce m=3".to_string(), "gemm-all-reduce m=4".to_string());
        let first = Error::Disagreed {
            epoch: 7,
            rank: 0,
            peer: 2,
            ours,
            theirs,
        };
        let failure = Failure::from(Error::Poisoned(std::sync::Arc::new(first)));
        assert_eq!(failure.kind, Kind::Disagreement);
        let object: Value = serde_json::from_str(&failure.to_json()).expect("the error object is JSON");
        let error = &object["error"];
        assert_eq!(error["kind"], "disagreement");
        assert_eq!(
            (&error["op"], &error["epoch"], &error["peer"]),
            (&json!("gemm-all-reduce"), &json!(7), &json!(2))
        );
        assert!(
            failure.message.contains("m=3") && failure.message.contains("m=4"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn messages_are_one_line() {
        assert_eq!(Failure::bad_input("a\n  b\tc ").message, "a b c");
    }
}
