//! Faults that can be planted in a run on the simulated node.

use std::fmt;
use std::str::FromStr;

use tileweave::driver::sim;

use crate::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This rank never launches.
    Silent { rank: usize },
    /// Nothing that `from` signals reaches `to`.
    DropSignal { from: usize, to: usize },
    /// This rank runs that much rarer.
    Slow { rank: usize, factor: u32 },
    /// This rank launches another M.
    Disagree { rank: usize },
    /// This rank's process is killed.
    Kill { rank: usize },
}

const FORMS: &str = "expected silent:R, drop-signal:FROM:TO, slow:R:FACTOR (factor 1 to 1000), disagree:R or kill:R";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Option<Vec<u32>> = rest.split(':').map(|word| word.parse().ok()).collect();
        match (name, numbers.as_deref()) {
            ("silent", Some(&[rank])) => Ok(Fault::Silent { rank: rank as usize }),
            ("drop-signal", Some(&[from, to])) => Ok(Fault::DropSignal {
                from: from as usize,
                to: to as usize,
            }),
            ("slow", Some(&[rank, factor @ 1..=1000])) => Ok(Fault::Slow {
                rank: rank as usize,
                factor,
            }),
            ("disagree", Some(&[rank])) => Ok(Fault::Disagree { rank: rank as usize }),
            ("kill", Some(&[rank])) => Ok(Fault::Kill { rank: rank as usize }),
            _ => Err(FORMS.into()),
        }
    }
}

/// As it is given.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Silent { rank } => write!(f, "silent:{rank}"),
            Fault::DropSignal { from, to } => write!(f, "drop-signal:{from}:{to}"),
            Fault::Slow { rank, factor } => write!(f, "slow:{rank}:{factor}"),
            Fault::Disagree { rank } => write!(f, "disagree:{rank}"),
            Fault::Kill { rank } => write!(f, "kill:{rank}"),
        }
    }
}

impl Fault {
    /// The fault that the simulated machine makes; `None` for one that a rank's program makes. Rank r is on device r.
    pub fn of_the_machine(self) -> Option<sim::Fault> {
        match self {
            Fault::DropSignal { from, to } => Some(sim::Fault::DropSignals { from, to }),
            Fault::Slow { rank, factor } => Some(sim::Fault::Slow { device: rank, factor }),
            Fault::Silent { .. } | Fault::Disagree { .. } | Fault::Kill { .. } => None,
        }
    }

    /// The ranks it names exist, a signal has two ends, and a rank that does not do its part has peers that would notice.
    pub fn check(self, ranks: usize) -> Result<(), Failure> {
        let (one, other) = match self {
            Fault::DropSignal { from, to } => (from, to),
            Fault::Silent { rank } | Fault::Slow { rank, .. } | Fault::Disagree { rank } | Fault::Kill { rank } => {
                (rank, rank)
            }
        };
        if let Some(outside) = [one, other].into_iter().find(|rank| *rank >= ranks) {
            let expected = format!("a rank below --ranks ({ranks})");
            return Err(Failure::bad_value("the rank of --fault", outside, &expected));
        }
        if ranks < 2 && !matches!(self, Fault::Slow { .. }) {
            return Err(Failure::bad_value(
                "--ranks",
                ranks,
                &format!("at least 2 with --fault {self}: one rank alone waits for no other"),
            ));
        }
        if matches!(self, Fault::DropSignal { .. }) && one == other {
            return Err(Failure::bad_input(format!(
                "--fault is {self}: expected two different ranks"
            )));
        }
        Ok(())
    }
}

/// Ends this process as the system does one that has used too much memory.
pub fn kill_this_process() -> ! {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // Where there are no signals, and until this one arrives.
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!("silent:1".parse(), Ok(Fault::Silent { rank: 1 }));
        assert_eq!("drop-signal:0:3".parse(), Ok(Fault::DropSignal { from: 0, to: 3 }));
        assert_eq!("slow:2:10".parse(), Ok(Fault::Slow { rank: 2, factor: 10 }));
        assert_eq!("disagree:0".parse(), Ok(Fault::Disagree { rank: 0 }));
        assert_eq!("kill:0".parse(), Ok(Fault::Kill { rank: 0 }));
        for form in ["silent:1", "drop-signal:0:3", "slow:2:10", "disagree:0", "kill:0"] {
            assert_eq!(
                form.parse::<Fault>().map(|fault| fault.to_string()).as_deref(),
                Ok(form)
            );
        }
        for bad in [
            "",
            "silent",
            "silent:",
            "silent:-1",
            "silent:1:2",
            "slow:1",
            "slow:1:0",
            "drop-signal:1",
            "late:1",
        ] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranks_must_exist() {
        assert!(Fault::Silent { rank: 3 }.check(4).is_ok());
        assert!(Fault::Silent { rank: 4 }.check(4).is_err());
        assert!(Fault::DropSignal { from: 0, to: 4 }.check(4).is_err());
        assert!(Fault::DropSignal { from: 2, to: 2 }.check(4).is_err());
    }
}
