//! `cross/install.sh`, run by this machine's `/bin/sh` on the system below a temporary folder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const AGENT: &str = env!("CARGO_BIN_EXE_sloth-agent");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cross/install.sh");

/// A root file system.
struct Root(tempfile::TempDir);

impl Root {
    /// With one program of an init system in it, by which it is recognised.
    fn with(init: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        if !init.is_empty() {
            let path = root.path(init);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        root
    }

    fn systemd() -> Self {
        Self::with("usr/lib/systemd/systemd")
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_else(|error| panic!("{below}: {error}"))
    }

    fn run(&self, options: &[&str]) -> Output {
        Command::new("/bin/sh").arg(SCRIPT).arg("--root").arg(self.0.path()).args(options).output().unwrap()
    }

    /// What it printed; it must have worked.
    fn done(&self, options: &[&str]) -> String {
        let output = self.run(options);
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && complained.is_empty(), "{options:?}: {said}{complained}");
        said
    }

    fn install(&self, options: &[&str]) -> String {
        self.done(&[&["--binary", AGENT], options].concat())
    }

    /// What it complained of, with this exit code.
    fn failed(&self, code: i32, options: &[&str]) -> String {
        let output = self.run(options);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Every file and link: its mode (0 for a link) and its inode, which is another one after each writing.
    fn files(&self) -> BTreeMap<String, (u32, u64)> {
        let mut files = BTreeMap::new();
        collect(self.0.path(), self.0.path(), &mut files);
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    fn mode(&self, below: &str) -> u32 {
        self.files()[below].0
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, (u32, u64)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
            files.insert(name, (mode, metadata.ino()));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_systemd_node_gets_binary_configuration_and_an_enabled_unit() {
    let root = Root::systemd();
    root.install(&["--name", "edge-7", "--master", "[fd00::1]:50050"]);
    assert_eq!(
        root.names(),
        [
            "etc/sloth-runner/agent.toml",
            "etc/systemd/system/multi-user.target.wants/sloth-agent.service",
            "etc/systemd/system/sloth-agent.service",
            "usr/lib/systemd/systemd",
            "usr/local/bin/sloth-agent",
        ]
    );
    assert_eq!(root.mode("usr/local/bin/sloth-agent"), 0o755);
    assert_eq!(root.mode("etc/systemd/system/sloth-agent.service"), 0o644);
    assert_eq!(root.mode("etc/sloth-runner/agent.toml"), 0o644);
    assert_eq!(fs::read(root.path("usr/local/bin/sloth-agent")).unwrap(), fs::read(AGENT).unwrap());
    let unit = root.read("etc/systemd/system/sloth-agent.service");
    assert!(unit.contains("\nExecStart=/usr/local/bin/sloth-agent start --config /etc/sloth-runner/agent.toml\n"));
    // Without either the other would have it killed: a manager that waits, and an agent that may not speak.
    for line in ["Type=notify", "NotifyAccess=main", "WatchdogSec=60", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let link = fs::read_link(root.path("etc/systemd/system/multi-user.target.wants/sloth-agent.service")).unwrap();
    assert_eq!(link, Path::new("/etc/systemd/system/sloth-agent.service"));
}

#[test]
fn the_agent_accepts_the_configuration_that_is_written() {
    for (init, shown) in [("usr/lib/systemd/systemd", ""), ("sbin/procd", "/etc/sloth-runner/state")] {
        let root = Root::with(init);
        root.install(&["--name", "edge-7", "--master", "[fd00::1]:50051"]);
        let config = root.path("etc/sloth-runner/agent.toml");
        let checked = Command::new(AGENT).arg("check").arg("--config").arg(config).output().unwrap();
        let said = text(&checked.stdout);
        assert!(checked.status.success(), "{said}{}", text(&checked.stderr));
        assert!(said.contains("edge-7") && said.contains("[fd00::1]:50051") && said.contains(shown), "{said}");
    }
}

#[test]
fn an_openwrt_node_gets_an_enabled_init_script() {
    let root = Root::with("sbin/procd");
    root.install(&[]);
    assert_eq!(
        root.names(),
        [
            "etc/init.d/sloth-agent",
            "etc/rc.d/K10sloth-agent",
            "etc/rc.d/S95sloth-agent",
            "etc/sloth-runner/agent.toml",
            "sbin/procd",
            "usr/bin/sloth-agent",
        ]
    );
    assert_eq!(root.mode("etc/init.d/sloth-agent"), 0o755);
    let script = root.read("etc/init.d/sloth-agent");
    assert!(script.contains("\nSTART=95\n") && script.contains("\nSTOP=10\n"), "as the links say: {script}");
    assert!(script.contains("\nPROG=/usr/bin/sloth-agent\n"));
    let checked = Command::new("/bin/sh").arg("-n").arg(root.path("etc/init.d/sloth-agent")).status().unwrap();
    assert!(checked.success());
}

#[test]
fn a_node_without_a_known_init_system_gets_a_hint() {
    let root = Root::with("");
    let said = root.install(&["--bin-dir", "/opt/sloth"]);
    assert_eq!(root.names(), ["etc/sloth-runner/agent.toml", "opt/sloth/sloth-agent"]);
    assert!(said.contains("/opt/sloth/sloth-agent start --config /etc/sloth-runner/agent.toml --daemon"), "{said}");
}

#[test]
fn installing_again_writes_nothing() {
    for init in ["usr/lib/systemd/systemd", "sbin/procd", ""] {
        let root = Root::with(init);
        root.install(&["--name", "edge-7"]);
        let before = root.files();
        let said = root.install(&["--name", "edge-7"]);
        let written = |files: BTreeMap<String, (u32, u64)>| -> BTreeMap<_, _> {
            files.into_iter().filter(|(_, (mode, _))| *mode != 0).collect()
        };
        assert_eq!(written(root.files()), written(before), "{said}");
        assert!(!said.contains("wrote"), "{said}");
    }
}

#[test]
fn an_upgrade_replaces_the_binary_and_leaves_the_configuration() {
    let root = Root::systemd();
    let other = root.path("other");
    fs::write(&other, "an older one").unwrap();
    root.done(&["--binary", other.to_str().unwrap()]);
    fs::write(root.path("etc/sloth-runner/agent.toml"), "name = \"mine\"\n").unwrap();
    let said = root.install(&["--name", "yours"]);
    assert_eq!(fs::read(root.path("usr/local/bin/sloth-agent")).unwrap(), fs::read(AGENT).unwrap());
    assert_eq!(root.read("etc/sloth-runner/agent.toml"), "name = \"mine\"\n");
    assert!(said.contains("--name and --master have no effect"), "{said}");
}

#[test]
fn uninstalling_keeps_configuration_and_state_and_purging_takes_the_agents_own() {
    for (init, state) in
        [("usr/lib/systemd/systemd", "var/lib/sloth-runner/edge-7"), ("sbin/procd", "etc/sloth-runner/state")]
    {
        let root = Root::with(init);
        root.install(&["--bin-dir", "/opt/sloth"]);
        let (id, database) = (format!("{state}/agent-id"), "var/lib/sloth-runner/master/sloth.db");
        for file in [&id, database, "etc/sloth-runner/master.toml"] {
            fs::create_dir_all(root.path(file).parent().unwrap()).unwrap();
            fs::write(root.path(file), "").unwrap();
        }
        let mut kept = vec![init, "etc/sloth-runner/agent.toml", "etc/sloth-runner/master.toml", id.as_str(), database];
        kept.sort_unstable();
        root.done(&["--uninstall"]);
        assert_eq!(root.names(), kept);
        root.done(&["--uninstall", "--purge"]);
        kept.retain(|file| ![id.as_str(), "etc/sloth-runner/agent.toml"].contains(file));
        assert_eq!(root.names(), kept);
        root.done(&["--uninstall", "--purge"]);
    }
}

#[test]
fn purging_the_only_program_leaves_no_folder() {
    let root = Root::systemd();
    root.install(&[]);
    root.done(&["--uninstall", "--purge"]);
    assert_eq!(root.names(), ["usr/lib/systemd/systemd"]);
    assert!(!root.path("etc/sloth-runner").exists());
}

#[test]
fn wrong_use_is_refused_with_the_remedy_and_changes_nothing() {
    let root = Root::systemd();
    let before = root.files();
    for (code, options, complaint) in [
        (2, &["--nmae", "x"][..], "unknown option --nmae"),
        (2, &["--name"], "--name needs a value"),
        (2, &["--name", ""], "--name is empty"),
        (2, &["--name", "a\"b"], "use letters, digits"),
        (2, &["--master", "a b"], "use HOST, HOST:PORT or [IPV6]:PORT"),
        (2, &["--bin-dir", "bin"], "begin with /"),
        (2, &["--bin-dir", "/a|b"], "use letters, digits"),
        (2, &["--init", "upstart"], "use systemd, procd or none"),
        (2, &["--purge"], "--purge goes with --uninstall"),
        (2, &["--uninstall", "--name", "x"], "--uninstall takes no"),
        (1, &["--binary", "/nowhere"], "no binary /nowhere: name one with --binary FILE"),
        (1, &["--root", "/nowhere"], "--root /nowhere: no such directory"),
    ] {
        let said = root.failed(code, options);
        assert!(said.starts_with("install.sh: ") && said.contains(complaint), "{options:?}: {said}");
        assert_eq!(root.files(), before, "{options:?}");
    }
}

#[test]
fn a_packaged_agent_is_left_to_its_package() {
    let root = Root::systemd();
    fs::create_dir_all(root.path("usr/lib/systemd/system")).unwrap();
    fs::write(root.path("usr/lib/systemd/system/sloth-agent.service"), "").unwrap();
    let said = root.failed(1, &["--binary", AGENT]);
    assert!(said.contains("the package sloth-agent is installed"), "{said}");
    assert!(!root.path("usr/local/bin/sloth-agent").exists());
}

#[test]
fn a_root_that_cannot_be_written_is_named() {
    let root = Root::systemd();
    // Not a directory, so that root cannot write to it either.
    fs::create_dir_all(root.path("usr/local")).unwrap();
    fs::write(root.path("usr/local/bin"), "").unwrap();
    let said = root.failed(1, &["--binary", AGENT]);
    assert!(said.contains("install.sh: cannot make ") && said.contains("/usr/local/bin"), "{said}");
    assert!(!root.path("etc/sloth-runner/agent.toml").exists());
}

/// Whether the machine has this program; with `SLOTH_TEST_ALL=1` it must.
fn has(program: &str, option: &str) -> bool {
    let there = Command::new(program).arg(option).output().is_ok();
    assert!(there || std::env::var("SLOTH_TEST_ALL").as_deref() != Ok("1"), "SLOTH_TEST_ALL=1, and no {program}");
    if !there {
        eprintln!("skipped: there is no {program}");
    }
    there
}

#[test]
fn a_node_with_no_other_tools_than_those_of_busybox_is_served() {
    if !has("busybox", "--help") {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let made = Command::new("busybox").args(["--install", "-s"]).arg(tools.path()).status().unwrap();
    assert!(made.success());
    for init in ["sbin/procd", "usr/lib/systemd/systemd", ""] {
        let root = Root::with(init);
        let before = root.names();
        let run = |options: &[&str]| {
            let mut command = Command::new(tools.path().join("sh"));
            command.env_clear().env("PATH", tools.path()).arg(SCRIPT).arg("--root").arg(root.0.path()).args(options);
            let output = command.output().unwrap();
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(output.status.success() && output.stderr.is_empty(), "{options:?}: {said}");
            said
        };
        run(&["--binary", AGENT, "--name", "edge-7", "--master", "[fd00::1]:50050"]);
        let installed = root.names();
        assert!(installed.contains(&"etc/sloth-runner/agent.toml".to_owned()), "{installed:?}");
        assert!(!run(&["--binary", AGENT]).contains("wrote"));
        run(&["--uninstall", "--purge"]);
        assert_eq!(root.names(), before);
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !has("systemd-analyze", "--version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("cross/systemd");
    let copy = |name: &str, to: &str| {
        // A program that is there: that is looked at, too.
        let unit = fs::read_to_string(units.join(name)).unwrap().replace("/usr/bin/sloth-", "/bin/true sloth-");
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, unit).unwrap();
        to
    };
    let verified = |unit: &Path| {
        let output = Command::new("systemd-analyze").arg("verify").arg(unit).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{unit:?}: {}", text(&output.stderr));
    };
    let agent = copy("sloth-agent.service", "sloth-agent.service");
    verified(&agent);
    verified(&copy("sloth-master.service", "sloth-master.service"));
    copy("sloth-agent-locked.conf", "sloth-agent.service.d/locked.conf");
    verified(&agent);
}
