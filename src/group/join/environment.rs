//! What a launcher tells the processes that it starts: which rank they are, of how many, of which job.
//!
//! | launcher | rank, world | on this host | job |
//! |---|---|---|---|
//! | torchrun | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, `LOCAL_WORLD_SIZE` | `MASTER_ADDR`, `MASTER_PORT`, `TORCHELASTIC_RUN_ID`, `TORCHELASTIC_RESTART_COUNT` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK`, `_LOCAL_SIZE` | `PMIX_NAMESPACE`, or `OMPI_MCA_ess_base_jobid` |
//! | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE` | `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` | `PMIX_NAMESPACE`, or the parent process |
//! | Slurm | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS` | `SLURM_LOCALID`; all where `SLURM_STEP_NUM_NODES` is 1 | `SLURM_JOB_ID`, `SLURM_STEP_ID` |
//!
//! The first that is there counts: whoever runs torchrun or mpirun under Slurm means these. A batch script of Slurm, which has no
//! step, is nobody's rank.

use super::Id;
use crate::error::{Error, Result};

/// A process's place among those that one launcher started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// `torchrun`, `Open MPI`, `PMI` or `Slurm`.
    pub launcher: &'static str,
    /// Which rank, of all hosts.
    pub rank: usize,
    /// How many ranks, on all hosts.
    pub world: usize,
    /// Which of this host's, where the launcher says.
    pub local_rank: Option<usize>,
    /// How many on this host, where the launcher says.
    pub local_world: Option<usize>,
    several_hosts: bool,
    job: Id,
}

impl Environment {
    /// What this process was told; `None`: no launcher started it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] names the variable that is missing beside others, is no number, or contradicts another.
    pub fn read() -> Result<Option<Environment>> {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        Environment::of(&variable, parent)
    }

    /// An id that all processes of this launch share, and no other launch's: one for each `group` of them.
    pub fn id(&self, group: &str) -> Id {
        Id::of(self.job.digest(group))
    }

    /// Whether some ranks are on other hosts, by what the launcher says: then they join by
    /// [`Rank::join_across`](crate::Rank::join_across).
    pub fn spans_hosts(&self) -> bool {
        self.several_hosts
    }

    /// Where ranks of several hosts meet: `MASTER_ADDR`, and `TILEWEAVE_MASTER_PORT`, else `MASTER_PORT`. Where torchrun's agent
    /// keeps a store at that port, as it says by `TORCHELASTIC_USE_AGENT_STORE`, the port behind it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] names the variable that is missing, or is no port.
    pub fn meeting(&self) -> Result<(String, u16)> {
        meeting(&variable, self.launcher)
    }

    fn of(get: &dyn Fn(&str) -> Option<String>, parent: i32) -> Result<Option<Environment>> {
        let variables = Variables { get };
        let found = |one: &str, two: &str| get(one).is_some() || get(two).is_some();
        if found("RANK", "WORLD_SIZE") {
            let told = variables.told("torchrun", ["RANK"], ["WORLD_SIZE"], "LOCAL_RANK", "LOCAL_WORLD_SIZE")?;
            let job = ["MASTER_ADDR", "MASTER_PORT"].map(|name| variables.need(&[name], "RANK"));
            let [address, port] = job;
            let more = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"].map(|name| get(name).unwrap_or_default());
            return told.of_job([address?.1, port?.1].into_iter().chain(more));
        }
        if found("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE") {
            let [rank, size] = ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"];
            let [local, locals] = ["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"];
            let told = variables.told("Open MPI", [rank], [size], local, locals)?;
            let (_, job) = variables.need(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"], rank)?;
            return told.of_job([job]);
        }
        if found("PMI_RANK", "PMI_SIZE") {
            let told = variables.told("PMI", ["PMI_RANK"], ["PMI_SIZE"], "MPI_LOCALRANKID", "MPI_LOCALNRANKS")?;
            // All of a host are children of one proxy.
            return told.of_job([get("PMIX_NAMESPACE").unwrap_or_else(|| format!("children of {parent}"))]);
        }
        if found("SLURM_STEP_ID", "SLURM_STEP_ID") && found("SLURM_PROCID", "SLURM_PROCID") {
            let sizes = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"];
            let mut told = variables.told("Slurm", ["SLURM_PROCID"], sizes, "SLURM_LOCALID", "")?;
            match get("SLURM_STEP_NUM_NODES").as_deref() {
                Some("1") => told.local_world = Some(told.world),
                nodes => told.several_hosts = nodes.is_some(),
            }
            let (_, job) = variables.need(&["SLURM_JOB_ID", "SLURM_JOBID"], "SLURM_PROCID")?;
            return told.of_job([job, get("SLURM_STEP_ID").unwrap_or_default()]);
        }
        Ok(None)
    }

    fn of_job(self, words: impl IntoIterator<Item = String>) -> Result<Option<Environment>> {
        let words: Vec<String> = std::iter::once(self.launcher.to_string()).chain(words).collect();
        let parts = words.iter().map(String::as_bytes);
        Ok(Some(Environment {
            job: Id::of(super::id::digest(parts)),
            ..self
        }))
    }
}

/// One of this process's, unless it is empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn meeting(get: &dyn Fn(&str) -> Option<String>, launcher: &str) -> Result<(String, u16)> {
    let [own, master] = ["TILEWEAVE_MASTER_PORT", "MASTER_PORT"];
    let variables = Variables { get };
    let beside = format!("what {launcher} sets: ranks are on several hosts");
    let (_, host) = variables.need(&["MASTER_ADDR"], &beside)?;
    let (name, value) = variables.need(&[own, master], &beside)?;
    let taken = name == master && get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let port = value.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.and_then(|port| port.checked_add(u16::from(taken)));
    let port =
        port.ok_or_else(|| Error::bad_argument(name, value, "a port, the same on all hosts, that rank 0 can have"))?;
    Ok((host, port))
}

struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    /// The first of `names` that is set, which `beside` asks for.
    fn need(&self, names: &[&str], beside: &str) -> Result<(String, String)> {
        let set = |name: &&str| Some((name.to_string(), (self.get)(name)?));
        let expected = || format!("it set, beside {beside}");
        let found = names.iter().find_map(set);
        found.ok_or_else(|| Error::bad_argument(names.join(" or "), "not set", expected()))
    }

    fn number(name: &str, value: &str) -> Result<usize> {
        let expected = "a number, as a launcher sets it";
        value
            .trim()
            .parse()
            .map_err(|_| Error::bad_argument(name, value, expected))
    }

    /// Checks that they agree.
    fn told<const N: usize>(
        &self,
        launcher: &'static str,
        [rank]: [&str; 1],
        sizes: [&str; N],
        local: &str,
        locals: &str,
    ) -> Result<Environment> {
        let (_, value) = self.need(&[rank], sizes[0])?;
        let (size_name, size) = self.need(&sizes, rank)?;
        let below = |name: &str, value: usize, of: &str, most: usize| match value < most {
            true => Ok(value),
            false => Err(Error::bad_argument(name, value, format!("below {of}, which is {most}"))),
        };
        let world = Variables::number(&size_name, &size)?;
        let number = below(rank, Variables::number(rank, &value)?, &size_name, world)?;
        let optional = |name: &str| match (self.get)(name).filter(|_| !name.is_empty()) {
            Some(value) => Variables::number(name, &value).map(Some),
            None => Ok(None),
        };
        let (local_rank, local_world) = (optional(local)?, optional(locals)?);
        if let Some(count) = local_world {
            below(locals, count, &format!("{size_name} + 1"), world + 1)?;
        }
        if let Some(index) = local_rank {
            match local_world {
                Some(count) => below(local, index, locals, count)?,
                None => below(local, index, &size_name, world)?,
            };
        }
        Ok(Environment {
            launcher,
            rank: number,
            world,
            local_rank,
            local_world,
            several_hosts: local_world.is_some_and(|local| local < world),
            job: Id([0; 128]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Option<Environment>> {
        let set: Vec<(&str, &str)> = words
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .collect();
        let get = |name: &str| {
            set.iter()
                .find(|(set, _)| *set == name)
                .map(|(_, value)| value.to_string())
        };
        Environment::of(&get, 77)
    }

    fn told(words: &str) -> (&'static str, usize, usize, Option<usize>, Option<usize>) {
        let told = read(words).unwrap().unwrap();
        (told.launcher, told.rank, told.world, told.local_rank, told.local_world)
    }

    const TORCHRUN: &str = "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=n1 MASTER_PORT=29500";
    const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
                            OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE=prterun-n1-5@1 PMIX_RANK=1";
    const SLURM: &str = "SLURM_PROCID=5 SLURM_NTASKS=9 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=5 SLURM_JOB_ID=12 \
                         SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=1";

    #[test]
    fn ranks_of_several_hosts_meet_where_nobody_else_listens() {
        let spans = |words: &str| read(words).unwrap().unwrap().spans_hosts();
        assert!(spans(TORCHRUN) && !spans(OPEN_MPI) && !spans(SLURM) && !spans("PMI_RANK=0 PMI_SIZE=2"));
        assert!(spans(&SLURM.replace("NUM_NODES=1", "NUM_NODES=2")));
        let meets = |words: &str| {
            let get = |name: &str| {
                let value = words
                    .split_whitespace()
                    .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                value.map(str::to_string)
            };
            meeting(&get, "torchrun").map_err(|error| error.to_string())
        };
        let at = |port| Ok(("n1".to_string(), port));
        assert_eq!(meets(TORCHRUN), at(29500));
        assert_eq!(
            meets(&format!("{TORCHRUN} TORCHELASTIC_USE_AGENT_STORE=False")),
            at(29500)
        );
        assert_eq!(
            meets(&format!("{TORCHRUN} TORCHELASTIC_USE_AGENT_STORE=True")),
            at(29501)
        );
        let own = format!("{TORCHRUN} TORCHELASTIC_USE_AGENT_STORE=True TILEWEAVE_MASTER_PORT=7");
        assert_eq!(meets(&own), at(7));
        for (words, named) in [
            ("MASTER_PORT=1", "MASTER_ADDR is not set"),
            ("MASTER_ADDR=n1", "TILEWEAVE_MASTER_PORT or MASTER_PORT is not set"),
            ("MASTER_ADDR=n1 MASTER_PORT=0", "MASTER_PORT is 0: expected a port"),
            (
                "MASTER_ADDR=n1 MASTER_PORT=65535 TORCHELASTIC_USE_AGENT_STORE=True",
                "MASTER_PORT is 65535",
            ),
        ] {
            let error = meets(words).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn every_launcher_is_understood_and_the_inner_one_counts() {
        assert_eq!(read("HOME=/root RANKING=1").unwrap(), None);
        assert_eq!(told(TORCHRUN), ("torchrun", 3, 8, Some(1), Some(2)));
        assert_eq!(told(OPEN_MPI), ("Open MPI", 1, 2, Some(1), Some(2)));
        assert_eq!(told("PMI_RANK=0 PMI_SIZE=2"), ("PMI", 0, 2, None, None));
        assert_eq!(
            told("PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=1").4,
            Some(1)
        );
        assert_eq!(told(SLURM), ("Slurm", 5, 8, Some(5), Some(8)));
        assert_eq!(told(&format!("{SLURM} {OPEN_MPI}")).0, "Open MPI");
        assert_eq!(told(&format!("{SLURM} {TORCHRUN}")).0, "torchrun");
        // A batch script is no task.
        assert_eq!(read("SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_ID=12").unwrap(), None);
    }

    #[test]
    fn an_id_is_a_launch_s_and_a_group_s() {
        let id = |words: &str, group: &str| read(words).unwrap().unwrap().id(group);
        let other_rank = TORCHRUN.replace("RANK=3", "RANK=2");
        assert_eq!(id(TORCHRUN, "tp"), id(&other_rank, "tp"));
        assert_ne!(id(TORCHRUN, "tp"), id(TORCHRUN, "pp"));
        for other in [
            "29501",
            "29500 TORCHELASTIC_RUN_ID=x",
            "29500 TORCHELASTIC_RESTART_COUNT=1",
        ] {
            assert_ne!(
                id(TORCHRUN, "tp"),
                id(&TORCHRUN.replace("29500", other), "tp"),
                "{other}"
            );
        }
        assert_ne!(id(SLURM, "tp"), id(&SLURM.replace("STEP_ID=0", "STEP_ID=1"), "tp"));
    }

    #[test]
    fn what_is_missing_malformed_or_contradicts_is_named() {
        for (words, told) in [
            ("RANK=1", "WORLD_SIZE is not set: expected it set, beside RANK"),
            ("WORLD_SIZE=1", "RANK is not set: expected it set, beside WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=n1", "MASTER_PORT is not set"),
            ("RANK=x WORLD_SIZE=2", "RANK is x: expected a number"),
            ("RANK=-1 WORLD_SIZE=2", "RANK is -1: expected a number"),
            (
                "RANK=2 WORLD_SIZE=2",
                "RANK is 2: expected below WORLD_SIZE, which is 2",
            ),
            (
                "RANK=0 WORLD_SIZE=0",
                "RANK is 0: expected below WORLD_SIZE, which is 0",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=2",
                "LOCAL_RANK is 2: expected below WORLD_SIZE",
            ),
            (
                "RANK=0 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2",
                "LOCAL_RANK is 2: expected below LOCAL_WORLD_SIZE",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=3",
                "LOCAL_WORLD_SIZE is 3: expected below WORLD_SIZE + 1",
            ),
            (
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2",
                "PMIX_NAMESPACE or OMPI_MCA_ess_base_jobid is not set",
            ),
            (
                "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=2",
                "SLURM_JOB_ID or SLURM_JOBID is not set",
            ),
        ] {
            let error = read(words).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
