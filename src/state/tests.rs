use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::logging::is_unlocked;

fn open(path: &Path) -> StateDir {
    StateDir::open(path, "node1").unwrap()
}

#[test]
fn the_directory_is_made_for_its_owner_alone_and_the_id_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/node1");
    let id = open(&path).agent_id();
    assert_ne!(id, [0; 16]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(open(&path).agent_id(), id);
    assert_eq!(fs::read_to_string(path.join("agent-id")).unwrap(), format!("{}\n", identity::hex(&id)));
}

#[test]
fn a_directory_that_everybody_can_write_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, told) in [(0o755, 0), (0o775, 0), (0o777, 1), (0o1777, 1)] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        let state = open(folder.path());
        assert_eq!(state.notices.len(), told, "{mode:o}: {:?}", state.notices);
        assert!(state.notices.iter().all(|text| text.ends_with("chmod o-w it")), "{:?}", state.notices);
    }
}

#[test]
fn a_second_holder_is_refused_with_name_pid_and_directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    state.write_pid().unwrap();
    let pid = std::process::id();
    assert_eq!(StateDir::holder(folder.path()).unwrap(), Holder::Running(Process::own()));
    let held = StateDir::open(folder.path(), "node1").unwrap_err();
    assert_eq!(
        held.to_string(),
        format!(
            "agent node1 is running already (pid {pid}): it holds the state directory {}; stop it first, or start \
             this one with another --name",
            folder.path().display()
        )
    );
    let other = StateDir::open(folder.path(), "node2").unwrap_err().to_string();
    assert!(other.starts_with("agent node1 is running already"), "{other}");
    assert!(other.ends_with("; stop it first, or give agent node2 a state_dir of its own"), "{other}");
    drop(state);
    assert_eq!(StateDir::holder(folder.path()).unwrap(), Holder::Nobody);
    open(folder.path());
}

#[test]
fn those_who_look_at_the_same_time_take_each_other_for_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let looking = File::open(folder.path().join("lock")).unwrap();
    assert!(is_unlocked(&looking).unwrap());
    assert_eq!(StateDir::holder(folder.path()).unwrap(), Holder::Nobody);
}

#[test]
fn a_pid_that_was_used_again_is_not_taken_for_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let state = open(folder.path());
    fs::write(folder.path().join("agent.pid"), format!("{} 1\n", std::process::id())).unwrap();
    assert_eq!(StateDir::holder(folder.path()).unwrap(), Holder::Running(None));
    assert_eq!(StateDir::remove_stale_pid(folder.path()), None, "somebody holds the directory");
    drop(state);
    assert_eq!(StateDir::remove_stale_pid(folder.path()), Some(std::process::id()));
    assert_eq!(StateDir::remove_stale_pid(folder.path()), None);
}

#[test]
fn a_corrupt_id_is_kept_aside_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("agent-id"), "garbage").unwrap();
    let state = open(folder.path());
    let path = folder.path().display();
    assert_eq!(
        state.notices,
        [format!(
            "{path}/agent-id does not hold an agent id: it is kept as {path}/agent-id.bad, and this agent gets a new id"
        )]
    );
    assert_eq!(fs::read_to_string(folder.path().join("agent-id.bad")).unwrap(), "garbage");
    let id = state.agent_id();
    drop(state);
    assert_eq!(open(folder.path()).agent_id(), id);
}

#[test]
fn the_highest_epoch_stays_and_never_falls() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    assert_eq!(state.highest_epoch(), 0);
    state.keep_epoch(7);
    state.keep_epoch(5);
    drop(state);
    assert_eq!(open(folder.path()).highest_epoch(), 7);
}

#[test]
fn the_status_of_an_earlier_run_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    state.write_status("{}");
    assert_eq!(StateDir::read_status(folder.path()).as_deref(), Some("{}"));
    drop(state);
    open(folder.path());
    assert_eq!(StateDir::read_status(folder.path()), None);
}

#[test]
fn where_nothing_can_be_written_state_lives_in_memory_with_a_stable_id() {
    // A file in the way stands for a read-only disk: it holds for root as well.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file/state");
    fs::write(folder.path().join("file"), "").unwrap();
    let place = Place::below(folder.path().join("places"), "", "node1");
    let mut state = StateDir::open_with(&path, "node1", vec![place]).unwrap();
    assert!(state.is_memory());
    assert_eq!(
        state.notices,
        [format!(
            "the state directory {} cannot be written (not a directory): going on with state in memory, which a \
             restart forgets",
            path.display()
        )]
    );
    assert_eq!(state.agent_id(), identity::derive(Path::new("/"), "node1"));
    state.keep_epoch(3);
    assert_eq!(state.highest_epoch(), 3);
    assert_eq!(state.notices.len(), 1, "it is said once");
}

#[test]
fn a_disk_that_fills_up_later_is_spoken_of_once_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    // The new file's name is taken by a directory: it cannot be written, for root neither.
    let blocker = folder.path().join("epoch.new");
    fs::create_dir(&blocker).unwrap();
    state.keep_epoch(1);
    state.keep_epoch(2);
    assert_eq!(state.notices.len(), 1);
    fs::remove_dir(&blocker).unwrap();
    state.keep_epoch(3);
    drop(state);
    assert_eq!(open(folder.path()).highest_epoch(), 3);
}

/// With a place that can be written, in the same folder.
fn open_with_place(folder: &Path, state_dir: &str) -> Result<StateDir, Held> {
    let place = Place::below(folder.join("places"), "", "node1");
    StateDir::open_with(&folder.join(state_dir), "node1", vec![place])
}

#[test]
fn an_agent_without_a_directory_holds_a_place_and_hands_it_back() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let mut state = open_with_place(folder.path(), "file/state").unwrap();
    state.write_pid().unwrap();
    state.write_status("{}");
    let place = folder.path().join("places/node1");
    assert_eq!(fs::read_to_string(place.join("status.json")).unwrap(), "{}");
    let held = open_with_place(folder.path(), "file/state").unwrap_err();
    assert_eq!(held.pid, Some(std::process::id()));
    // Also once the directory can be written.
    assert_eq!(open_with_place(folder.path(), "state").unwrap_err().pid, Some(std::process::id()));
    state.guard().leave();
    drop(state);
    assert!(!place.exists());
    open_with_place(folder.path(), "file/state").unwrap();
}

#[test]
fn a_disk_that_takes_no_pid_file_is_told_by_the_place_that_does() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("state/agent.pid.new")).unwrap();
    let mut state = open_with_place(folder.path(), "state").unwrap();
    assert!(!state.is_memory());
    state.write_pid().unwrap();
    let pid = fs::read_to_string(folder.path().join("places/node1/agent.pid")).unwrap();
    assert!(pid.starts_with(&format!("{} ", std::process::id())) && pid.ends_with(" node1\n"), "{pid}");
}

#[test]
fn where_nothing_at_all_can_be_written_the_pid_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("places"), "").unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let mut state = open_with_place(folder.path(), "file/state").unwrap();
    let why = format!("{}/places/node1 (not a directory)", folder.path().display());
    assert_eq!(state.write_pid(), Err(why.clone()));
    assert_eq!(
        state.notices[1],
        format!("nor can its pid and status be written elsewhere: {why}; `stop` and `status` will not find it")
    );
}

#[test]
fn an_agent_whose_directory_was_removed_is_found_from_its_next_status_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open_with_place(folder.path(), "state").unwrap();
    state.write_pid().unwrap();
    fs::remove_dir_all(folder.path().join("state")).unwrap();
    state.write_status("{}");
    assert_eq!(open_with_place(folder.path(), "state").unwrap_err().pid, Some(std::process::id()));
}
