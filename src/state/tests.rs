use std::os::unix::fs::PermissionsExt;

use super::*;

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
fn a_second_holder_is_refused_with_name_pid_and_directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    state.write_pid();
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
    drop(state);
    assert_eq!(StateDir::holder(folder.path()).unwrap(), Holder::Nobody);
    open(folder.path());
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
    let mut state = open(&path);
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
