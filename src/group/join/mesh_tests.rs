//! Meshes in one process.

use super::*;

/// What was heard, in order, by rank.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    /// Waits until so much was heard.
    fn wait(&self, lines: usize) -> Vec<String> {
        loop {
            let heard = self.0.lock().unwrap().clone();
            if heard.len() >= lines {
                return heard;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Hears for Log {
    fn lost(&self, peer: usize, why: &str) {
        self.push(format!("{peer} lost: {why}"));
    }
    fn failed(&self, peer: usize, reason: Reason) {
        self.push(format!("{peer} failed: {reason:?}"));
    }
    fn farewell(&self, peer: usize, launched: Option<u64>) {
        self.push(format!("{peer} gone after {launched:?}"));
    }
    fn ended(&self, peer: usize) {
        self.push(format!("{peer} ended"));
    }
}

fn meshes(world: usize) -> (Vec<Mesh>, Vec<Arc<Log>>) {
    let mut sockets: Vec<Vec<Option<Line>>> = (0..world).map(|_| (0..world).map(|_| None).collect()).collect();
    for (a, b) in (0..world).flat_map(|b| (0..b).map(move |a| (a, b))) {
        let (near, far) = pair().unwrap();
        (sockets[a][b], sockets[b][a]) = (Some(Line::packets(near)), Some(Line::packets(far)));
    }
    let logs: Vec<Arc<Log>> = (0..world).map(|_| Arc::default()).collect();
    let listening = sockets
        .into_iter()
        .zip(&logs)
        .enumerate()
        .map(|(rank, (sockets, log))| {
            let mesh = Mesh::of(rank, sockets).unwrap();
            mesh.listen(log.clone()).unwrap();
            mesh
        });
    (listening.collect(), logs)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

const ALL: (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());

#[test]
fn a_socket_that_closes_is_a_rank_that_died_unless_it_said_farewell() {
    let (mut meshes, logs) = meshes(4);
    meshes[2].farewell(Some(7));
    drop(meshes.remove(2));
    for rank in [0, 1, 3] {
        assert_eq!(logs[rank].wait(2), ["2 gone after Some(7)", "2 ended"]);
    }
    assert_eq!((meshes[0].gone(2), meshes[0].gone(1)), (Some(Some(7)), None));
    // Without a word.
    drop(meshes.remove(1));
    for rank in [0, 3] {
        assert_eq!(logs[rank].wait(3)[2..], ["1 lost: its process ended"]);
    }
    meshes[0].failed(Reason::Other("tired".to_string()));
    assert_eq!(logs[3].wait(4)[3..], ["0 failed: Other(\"tired\")"]);
}

/// A socket closed with a packet unread says first that it was reset, then what came before.
#[test]
fn a_farewell_is_heard_of_one_that_left_words_of_ours_unread() {
    for farewell in [true, false] {
        let (near, far) = pair().unwrap();
        let deaf = Mesh::of(1, vec![Some(Line::packets(far)), None]).unwrap();
        let mesh = Mesh::of(0, vec![None, Some(Line::packets(near))]).unwrap();
        mesh.inner.say(1, &Word::Barrier(1), PATIENCE).unwrap();
        if farewell {
            deaf.farewell(Some(3));
        }
        drop(deaf);
        let log = Arc::new(Log::default());
        mesh.listen(log.clone()).unwrap();
        match farewell {
            true => assert_eq!(log.wait(2), ["1 gone after Some(3)", "1 ended"]),
            false => assert_eq!(log.wait(1), ["1 lost: its process ended"]),
        }
    }
}

#[test]
fn a_socket_that_is_kept_ends_with_its_keeper() {
    let (mut meshes, logs) = meshes(2);
    let gone = meshes.pop().unwrap();
    let line = gone.line();
    gone.farewell(None);
    drop(gone);
    assert_eq!(logs[0].wait(1), ["1 gone after None"]);
    // Far more than a socket holds: nothing is said to one that nobody hears.
    for round in 0..5000 {
        meshes[0].inner.say(1, &Word::Barrier(round), PATIENCE).unwrap();
    }
    assert_eq!(logs[0].wait(1).len(), 1);
    drop(line);
    assert_eq!(logs[0].wait(2)[1..], ["1 ended"]);
}

#[test]
fn nobody_waits_at_the_barrier_for_one_that_is_lost() {
    let (mut meshes, _logs) = meshes(3);
    drop(meshes.pop());
    assert_eq!(meshes[0].meet(1, soon(), || false).0, [1, 2]);
}

#[test]
fn nonsense_makes_a_peer_lost() {
    for (packet, told) in [
        (vec![b'x'; 100], "1 lost: it sent what is no word of ranks"),
        (vec![b' '; LONGEST + 1], "1 lost: it sent a packet of 32769 bytes"),
    ] {
        let (meshes, logs) = meshes(2);
        let line = meshes[1].inner.lines[0].as_ref().unwrap();
        line.say(&packet, soon()).unwrap();
        let heard = logs[0].wait(1);
        assert!(heard[0].starts_with(told), "{heard:?}");
    }
}

#[test]
fn nobody_leaves_the_barrier_before_all_have_come() {
    let (meshes, _logs) = meshes(4);
    let here = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for mesh in &meshes {
            let here = &here;
            scope.spawn(move || {
                for round in 1..=100 {
                    here.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert_eq!(mesh.meet(round, soon(), || false), ALL);
                    assert!(here.load(std::sync::atomic::Ordering::SeqCst) >= 4 * round);
                }
            });
        }
    });
}

#[test]
fn who_is_absent_and_who_gave_up_is_told_apart_and_may_come_again() {
    let (meshes, _logs) = meshes(3);
    let brief = || Instant::now() + Duration::from_millis(1);
    assert_eq!(meshes[2].meet(1, brief(), || false), (vec![0, 1], vec![]));
    // Its word that it came travels, and behind it the one that it gave up.
    loop {
        let told = meshes[0].meet(1, brief(), || false);
        if told == (vec![1], vec![2]) {
            break;
        }
        assert!(matches!(&told.0[..], [1] | [1, 2]) && told.1.is_empty(), "{told:?}");
    }
    std::thread::scope(|scope| {
        for mesh in &meshes {
            scope.spawn(|| assert_eq!(mesh.meet(1, soon(), || false), ALL));
        }
    });
    // A failure ends the wait.
    assert_eq!(meshes[0].meet(2, soon(), || true).0, [1, 2]);
}
