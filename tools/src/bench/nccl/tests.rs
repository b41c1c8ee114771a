//! The calls against a stand-in for the library (`fake.c`): that they are well-formed, not that NCCL does what they ask.

use std::ffi::{CStr, OsStr, c_char};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::communicators::{Collective, Communicators, Part};
use super::library::Library;

const DEADLINE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(5);

/// A library of one test: its notes are its own.
struct Fake {
    path: PathBuf,
    /// Keeps the notes when the test has closed its own.
    library: libloading::Library,
}

impl Fake {
    fn new(name: &str, flags: &[&str]) -> Fake {
        let path = std::env::temp_dir().join(format!("tileweave-nccl-{}-{name}.so", std::process::id()));
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(compiler)
            .args(["-std=gnu11", "-O1", "-shared", "-fPIC"])
            .args(flags)
            .arg("-o")
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/nccl/fake.c"))
            .status()
            .expect("a C compiler");
        assert!(status.success());
        // SAFETY: the stand-in has no initialisers.
        let library = unsafe { libloading::Library::new(&path) }.expect("what was just compiled");
        Fake { path, library }
    }

    fn open(&self) -> Result<Library, String> {
        Library::of(self.path.as_os_str(), Some("1"))
    }

    fn notes(&self) -> String {
        // SAFETY: fake.c declares it so; the string ends with a zero, and nothing is noted while it is read: the library is this
        // test's own.
        unsafe {
            let log = self.library.get::<unsafe extern "C" fn() -> *const c_char>(b"fake_log");
            CStr::from_ptr(log.expect("the notes")()).to_string_lossy().into_owned()
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn three(library: &Library, deadline: Duration) -> Result<Communicators<'_>, String> {
    Communicators::new(library, &[16, 16, 18], deadline, |_| Ok(()))
}

fn reason<T>(outcome: Result<T, String>) -> String {
    outcome.err().expect("a reason")
}

#[test]
fn an_absent_library_says_where_it_was_looked_for() {
    let text = reason(Library::of(OsStr::new("libnccl-absent.so.2"), Some("1")));
    assert!(
        text.starts_with("libnccl-absent.so.2 was not found where the loader looks (LD_LIBRARY_PATH")
            && text.contains("cannot open"),
        "{text}"
    );
}

#[test]
fn an_old_or_incomplete_library_is_refused() {
    let text = reason(Fake::new("old", &["-DVERSION=22907"]).open());
    assert!(
        text.contains("need NCCL 2.30 or later") && text.ends_with("is 2.29.7"),
        "{text}"
    );
    let text = reason(Fake::new("incomplete", &["-DWITHOUT_ABORT"]).open());
    assert!(text.ends_with("lacks ncclCommAbort"), "{text}");
}

#[test]
fn the_variable_has_to_be_set() {
    let fake = Fake::new("variable", &[]);
    for (value, seen) in [(None, "it is not set"), (Some("0"), "it is \"0\"")] {
        let text = reason(Library::of(fake.path.as_os_str(), value));
        assert!(
            text.contains("NCCL_MULTI_RANK_GPU_ENABLE=1") && text.contains(seen),
            "{text}"
        );
    }
    assert_eq!(fake.open().expect("a library").version(), "2.30.7");
}

#[test]
fn a_failing_init_speaks_in_nccls_words_and_ends_what_it_made() {
    let fake = Fake::new("init", &["-DINIT_FAILS"]);
    let library = fake.open().expect("a library");
    let text = reason(three(&library, DEADLINE));
    assert_eq!(
        text,
        "ncclCommInitRankConfig failed with 5: invalid usage: Multiple Ranks are using the same GPU"
    );
    // The group is closed all the same.
    assert_eq!(fake.notes(), "start;init 0/3 ctas 16;end;abort 0;");
    let text = reason(Communicators::new(&library, &[1], DEADLINE, |_| {
        Err::<(), _>("no device".into())
    }));
    assert_eq!(text, "no device");
}

#[test]
fn an_init_that_does_not_end_is_aborted() {
    let fake = Fake::new("never", &["-DNEVER_READY"]);
    let library = fake.open().expect("a library");
    let text = reason(three(&library, SOON));
    assert_eq!(text, "NCCL was not ready after 0.005 s");
    assert!(
        fake.notes().ends_with("end;abort 0;abort 1;abort 2;"),
        "{}",
        fake.notes()
    );
}

#[test]
fn ranks_call_in_one_group_with_their_counts_types_and_streams() {
    let fake = Fake::new("good", &[]);
    let library = fake.open().expect("a library");
    let mut comms = three(&library, DEADLINE).expect("communicators");
    let mut expected = "start;init 0/3 ctas 16;init 1/3 ctas 16;init 2/3 ctas 18;end;".to_string();
    assert_eq!(fake.notes(), expected);
    let parts = [0u64, 1, 2].map(|rank| Part {
        from: 0x1000 + rank,
        to: 0x2000 + rank,
        stream: std::ptr::without_provenance_mut(0x30 + rank as usize),
    });
    for (collective, count, name, op) in [
        (Collective::ReduceScatter, 100, "reduce_scatter", 0),
        (Collective::AllReduce, 4096, "all_reduce", 0),
        (Collective::AllGather, 7, "all_gather", -1),
    ] {
        comms.launch(collective, count, &parts).expect("a healthy library");
        expected += "start;";
        for rank in 0..3 {
            expected += &format!("{name} rank {rank} 100{rank}>200{rank} count {count} type 9 op {op} stream 3{rank};");
        }
        expected += "end;";
        assert_eq!(fake.notes(), expected);
    }
    assert!(reason(comms.launch(Collective::AllGather, 1, &parts[1..])).contains("2 parts for 3"));
    let mut asked = 0;
    let done = || {
        asked += 1;
        Ok(asked == 5)
    };
    comms.wait(done).expect("work that ends");
    drop(comms);
    expected += "start;finalize 0;finalize 1;finalize 2;end;destroy 0;destroy 1;destroy 2;";
    assert_eq!(fake.notes(), expected);
}

#[test]
fn work_that_does_not_end_or_fails_is_aborted_once() {
    let fake = Fake::new("stuck", &[]);
    let library = fake.open().expect("a library");
    for (answer, expected) in [
        (Ok(false), "its kernels were not done after 0.005 s"),
        (Err("a launch failed".to_string()), "a launch failed"),
    ] {
        let before = fake.notes().len();
        let mut comms = three(&library, DEADLINE).expect("communicators");
        comms.deadline = SOON;
        assert_eq!(reason(comms.wait(|| answer.clone())), expected);
        assert_eq!(
            reason(comms.launch(Collective::AllReduce, 1, &[])),
            "the communicators were aborted"
        );
        drop(comms);
        let notes = fake.notes()[before..].to_string();
        assert!(notes.ends_with("end;abort 0;abort 1;abort 2;"), "{notes}");
    }
}
