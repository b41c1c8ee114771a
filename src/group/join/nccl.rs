//! Communicators of NCCL's between processes: whether there can be any, rank 0's id for all, and that all are connected.

use super::super::holdings::Holdings;
use super::super::nccl::{self, Nccl};
use super::hall::{Given, Hall};
use super::processes::Joiner;
use super::switch::agree;
use crate::error::{Error, Result};
use crate::memory::layout::Layout;
use crate::nccl::UniqueId;

/// A rank's version of NCCL, and rank 0's id; or why it has none.
type Found = Result<(String, Vec<u8>), String>;

impl Joiner<'_> {
    /// Communicators of NCCL's, in two steps that no rank is ahead in: all have found a library, of one version, and hear rank
    /// 0's id; all are connected. What fails on one rank is nobody's then.
    pub(super) fn by_nccl(
        &self,
        hall: &mut Hall,
        holdings: &Holdings,
        layout: &Layout,
    ) -> Result<Result<Nccl, String>> {
        let found = nccl::library();
        let mine = found.as_ref().map_err(String::clone).and_then(|library| {
            let id = match self.rank {
                0 => library.unique_id().map_err(|error| error.to_string())?.0.to_vec(),
                _ => Vec::new(),
            };
            Ok((library.version(), id))
        });
        let heard: Vec<(Found, _)> = hall.gather("NCCL", Ok((mine, Given::new())))?;
        let mut first: Option<(String, Vec<u8>)> = None;
        for (rank, (said, _)) in heard.into_iter().enumerate() {
            match (said, &first) {
                (Err(why), _) => return Ok(Err(format!("rank {rank}: {why}"))),
                (Ok((version, _)), Some((zero, _))) if version != *zero => {
                    return Ok(Err(format!("rank {rank} has NCCL {version}, and rank 0 {zero}")));
                }
                (Ok(said), None) => first = Some(said),
                _ => {}
            }
        }
        let id = first.and_then(|(_, id)| <[u8; 128]>::try_from(id).ok()).map(UniqueId);
        let (Ok(library), Some(id)) = (found, id) else {
            return Ok(Err("rank 0 gave no id of NCCL's".to_string()));
        };
        // A rank that fails tells the others while they still wait in the hall.
        let times = (self.config.deadline / 8, self.config.deadline);
        let made = Nccl::join(self.driver, &library, &id, holdings, layout, times);
        let said = made.as_ref().map(drop).map_err(Error::to_string);
        match agree(hall, "communicators", said, Given::new())? {
            Ok(_) => made.map(Ok),
            Err(reason) => Ok(Err(reason)),
        }
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::super::holdings::Local;
    use super::super::super::nccl::STAND_IN;
    use super::super::super::{GroupConfig, RankPlace};
    use super::super::hall::Comer;
    use super::super::id::Id;
    use super::super::words::Process;
    use super::*;
    use crate::driver::{Driver, Place};
    use crate::group::fake::Fake;
    use crate::memory::heap::Heap;
    use crate::nccl::tests::fake as stand_in;
    use crate::nccl::{Library, NcclPolicy};

    const WORLD: usize = 3;

    fn place(rank: usize) -> Place {
        Place {
            device: rank,
            share: 0,
            shares: 1,
        }
    }

    /// What becomes of ranks that are threads, each with its own part of a group and its own library.
    fn joined(name: &str, found: [Result<Arc<Library>, String>; WORLD]) -> Vec<Result<String, String>> {
        let mut fake = Fake::default();
        (fake.devices, fake.cuda) = (WORLD, true);
        let driver: Arc<dyn Driver> = Arc::new(fake);
        let id = Id::of(format!("{name} {}", std::process::id()));
        let config = GroupConfig::default()
            .nccl(NcclPolicy::Own)
            .deadline(Duration::from_secs(80));
        let layout = Layout::new(4 << 20, WORLD, 0).expect("a layout");
        let one = |rank: usize, library| -> crate::Result<Result<String, String>> {
            STAND_IN.with(|stand_in| *stand_in.borrow_mut() = Some(library));
            let comer = Comer {
                rank,
                world: WORLD,
                process: Process::here(rank)?,
                agreed: Vec::new(),
                until: Instant::now() + Duration::from_secs(60),
            };
            let (mut hall, _) = Hall::enter(&id, comer)?;
            let mut holdings = Holdings::default();
            for peer in 0..WORLD {
                holdings
                    .heaps
                    .push(Heap::new(&driver, place(peer), 4 << 20, 1, &[place(rank)])?);
            }
            holdings.locals.push(Local::new(&driver, rank, place(rank), None)?);
            let joiner = Joiner {
                driver: &driver,
                rank,
                at: RankPlace {
                    place: place(rank),
                    stream: None,
                },
                config: &config,
            };
            let nccl = joiner.by_nccl(&mut hall, &holdings, &layout)?;
            // Nobody ends its communicator while others connect.
            hall.gather("end", Ok(((), Given::new())))?;
            Ok(nccl.map(|nccl| nccl.words()))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = found
                .into_iter()
                .enumerate()
                .map(|(rank, library)| {
                    let one = &one;
                    scope.spawn(move || one(rank, library))
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            joined.map(|joined| joined.expect("a rendezvous")).collect()
        })
    }

    #[test]
    fn all_have_communicators_or_all_know_why_none_has() {
        let fake = stand_in("join", &[]);
        let other = stand_in("join-other", &["-DVERSION=22105"]);
        let open = |path: &Path| Library::open(path.as_os_str());
        let library = || open(&fake.path).map_err(|error| error.to_string());
        for joined in joined("join", [library(), library(), library()]) {
            assert!(
                joined.as_ref().is_ok_and(|words| words.starts_with("NCCL 2.30.7 (")),
                "{joined:?}"
            );
        }
        let notes = fake.notes_that_end_with(";");
        assert_eq!(notes.matches("init ").count(), WORLD);
        assert!(notes.contains("reduce_scatter rank 2 "), "{notes}");

        let absent = Err("there is none".to_string());
        for joined in joined("join-absent", [library(), library(), absent]) {
            assert_eq!(joined.expect_err("none"), "rank 2: there is none");
        }
        let older = open(&other.path).map_err(|error| error.to_string());
        for joined in joined("join-versions", [library(), older, library()]) {
            assert_eq!(joined.expect_err("none"), "rank 1 has NCCL 2.21.5, and rank 0 2.30.7");
        }
        // Nobody was kept waiting for a clique that cannot be.
        assert_eq!(fake.notes().matches("init ").count(), WORLD);
    }
}
