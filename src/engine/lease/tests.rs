use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use serde_json::json;

use super::*;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(400);

fn key() -> Key {
    Key::of(&json!("a stage"))
}

/// A run on a machine of this name.
fn run_on(folder: &Path, node: &str) -> Leases {
    let me = Holder { node: node.into(), ..Holder::here() };
    Leases::enter_as(folder, me, SHORT, LONG).unwrap()
}

/// A lease as a run leaves it that is killed.
fn left_by_killed(folder: &Path, holder: &Holder) {
    let text = format!("{}\n{:020}\n", serde_json::to_string(holder).unwrap(), 7);
    fs::write(folder.join(key().short()), text).unwrap();
}

/// Asks until the lease is had, and says how long that took.
fn wait_for(leases: &Leases) -> (Lease, Duration) {
    let start = Instant::now();
    loop {
        if let Some(lease) = leases.take(&key()).unwrap() {
            return (lease, start.elapsed());
        }
        assert!(start.elapsed() < 50 * LONG, "the lease never comes");
        std::thread::sleep(SHORT);
    }
}

#[test]
fn one_run_at_a_time_has_a_stage() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (run_on(dir.path(), "a"), run_on(dir.path(), "b"));
    let lease = a.take(&key()).unwrap().unwrap();
    assert!(a.take(&key()).unwrap().is_none(), "nor twice the same run");
    let start = Instant::now();
    while start.elapsed() < 3 * LONG {
        assert!(b.take(&key()).unwrap().is_none(), "a holder that writes is alive");
        std::thread::sleep(SHORT);
    }
    assert_eq!(holder(dir.path(), &key()).unwrap().node, "a");
    drop(lease);
    assert!(b.take(&key()).unwrap().is_some());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_dead_holder_on_another_machine_is_found_out_by_its_silence() {
    let dir = tempfile::tempdir().unwrap();
    left_by_killed(dir.path(), &Holder { node: "dead".into(), locked: true, ..Holder::here() });
    let (_lease, waited) = wait_for(&run_on(dir.path(), "b"));
    assert!(waited >= LONG, "{waited:?}");
}

#[test]
fn a_dead_holder_on_this_machine_is_found_out_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let here = run_on(dir.path(), "here");
    left_by_killed(dir.path(), &Holder { node: "here".into(), locked: true, ..Holder::here() });
    assert!(here.take(&key()).unwrap().is_some());
    // where the file system has no locks, by its silence
    left_by_killed(dir.path(), &Holder { node: "here".into(), locked: false, ..Holder::here() });
    assert!(wait_for(&here).1 >= LONG);
}

/// What its clock says is asked of nobody: not of one that lives, nor of one that is dead.
#[test]
fn a_holder_whose_clock_is_an_hour_off_is_one_like_others() {
    const HOUR: Duration = Duration::from_secs(3600);
    let now = SystemTime::now();
    for clock in [now - HOUR, now + HOUR] {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (run_on(dir.path(), "a"), run_on(dir.path(), "b"));
        let lease = a.take(&key()).unwrap().unwrap();
        let file = dir.path().join(key().short());
        let start = Instant::now();
        while start.elapsed() < 2 * LONG {
            File::options().write(true).open(&file).unwrap().set_modified(clock).unwrap();
            assert!(b.take(&key()).unwrap().is_none());
            std::thread::sleep(SHORT);
        }
        drop(lease);
        left_by_killed(dir.path(), &Holder { node: "dead".into(), ..Holder::here() });
        File::options().write(true).open(&file).unwrap().set_modified(clock).unwrap();
        assert!(wait_for(&b).1 >= LONG);
    }
}

#[test]
fn of_many_that_wait_for_a_dead_holder_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    left_by_killed(dir.path(), &Holder { node: "dead".into(), ..Holder::here() });
    let (holders, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (dir, holders, most) = (dir.path(), &holders, &most);
            scope.spawn(move || {
                let leases = run_on(dir, &format!("n{i}"));
                let (lease, _) = wait_for(&leases);
                let now = holders.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(3 * SHORT);
                holders.fetch_sub(1, Ordering::SeqCst);
                assert!(!lease.is_lost());
            });
        }
    });
    assert_eq!(most.into_inner(), 1, "at a time");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

/// A machine that stood still, or whose network did, while another took its stage.
#[test]
fn who_is_taken_for_dead_is_told_so_and_leaves_the_other_alone() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Leases::enter_as(
        dir.path(),
        Holder { node: "slow".into(), ..Holder::here() },
        3 * LONG,
        LONG,
    )
    .unwrap();
    let lease = slow.take(&key()).unwrap().unwrap();
    let other = run_on(dir.path(), "other");
    let (own, waited) = wait_for(&other);
    assert!(waited >= LONG && !own.is_lost());
    let start = Instant::now();
    while !lease.is_lost() {
        assert!(start.elapsed() < 20 * LONG, "it is never told");
        std::thread::sleep(SHORT);
    }
    drop(lease);
    assert_eq!(holder(dir.path(), &key()).unwrap().node, "other");
    assert!(slow.take(&key()).unwrap().is_none() && !own.is_lost());
}

/// Between creating a lease and writing into it, and between moving one away and removing it.
#[test]
fn a_machine_that_dies_in_the_middle_leaves_nothing_that_blocks() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(key().short()), "").unwrap();
    let leases = run_on(dir.path(), "a");
    let (lease, waited) = wait_for(&leases);
    assert!(waited >= LONG);
    drop(lease);

    left_by_killed(dir.path(), &Holder::here());
    let away = dir.path().join(format!("{}.of-a-dead-run.{AWAY}", key().short()));
    fs::rename(dir.path().join(key().short()), &away).unwrap();
    assert!(leases.take(&key()).unwrap().is_some());
    run_on(dir.path(), "b");
    assert!(!away.exists(), "the next run clears up");
}
