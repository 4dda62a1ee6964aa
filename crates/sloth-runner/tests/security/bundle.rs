//! The archive for whoever is to help: everything that is known, and no secret.

use crate::{
    secrets::{key_of, secret_of, shapes},
    secured::{Done, Master},
};
use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::Path};

/// The files of an archive, by their names below its folder.
fn contents(file: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(file).unwrap()));
    let read = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        (path.split_once('/').unwrap().1.to_owned(), io::read_to_string(&mut entry).unwrap())
    };
    tar.entries().unwrap().map(read).collect()
}

async fn bundle(master: &Master, token: &str, options: &str, file: &Path) -> Done {
    master.tool_with(token, format!("support-bundle lady --file {} {options}", file.display()).trim_end()).await
}

#[tokio::test]
async fn a_support_bundle_holds_what_is_known_and_no_secret() {
    let master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let mut agent = master.joins(state.path(), "lady");
    agent.active().await;
    let join = fs::read_to_string(master.file("join.token")).unwrap().trim().to_owned();
    let viewer = master.token("--role viewer").await;
    let key = fs::read_to_string(master.file("master.key")).unwrap();
    assert_eq!(master.tool(&format!("agent run lady -- echo {join}")).await.code, 0);
    assert_eq!(master.tool("agent run lady -- echo http://eva:hunter2@host/").await.code, 0);

    // A master that logs more than ours does, and posts to a receiver whose address is a secret.
    let (config, log, secret) = (master.file("other.toml"), master.file("other.log"), master.file("hook.secret"));
    fs::write(&log, format!("INFO  {join}\nINFO  {key}\nINFO  the end\n")).unwrap();
    fs::write(&secret, "hook-s3cret\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let text = fs::read_to_string(master.file("master.toml")).unwrap();
    let hook = format!("url = \"http://127.0.0.1:1/hook-p4th\"\nsecret_file = {secret:?}");
    fs::write(&config, format!("log.file = {log:?}\n{text}\n[events.webhook]\n{hook}\n")).unwrap();

    let file = state.path().join("bundle.tar.gz");
    let options = format!("--with-agent --with-output --master-config {}", config.display());
    let done = bundle(&master, &master.operator(), &options, &file).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let parts = contents(&file);
    for (path, holds) in [
        ("explain.json", "\"advice\": "),
        ("agent.json", "\"name\": \"lady\""),
        ("events.json", "agent.connected"),
        ("commands.json", "sloth1.***"),
        ("agent/report.txt", "agent lady: Active"),
        ("agent/report.txt", "registered with "),
        ("agent/report.txt", "auth.token = ***"),
        ("agent/report.txt", "its standard error is pipe:["),
        ("tool.json", "\"version\": "),
        ("master/config.json", "http://127.0.0.1:1/***"),
        ("master/log.txt", "the end"),
    ] {
        assert!(parts[path].contains(holds), "{path} without {holds}: {}", parts[path]);
    }
    assert!(parts.values().any(|text| text.contains("http://***@host/")), "{parts:?}");
    assert_eq!(parts.keys().filter(|path| path.starts_with("output/")).count(), 2);
    for path in parts.keys().filter(|path| *path != "contents.txt") {
        assert!(parts["contents.txt"].contains(&format!("  {path}\n")), "{path}: {}", parts["contents.txt"]);
    }
    assert!(!parts.contains_key("problems.txt"), "{:?}", parts.get("problems.txt"));

    let mut secrets: Vec<Vec<u8>> = [&join, &viewer, &master.operator()].map(|token| secret_of(token)).to_vec();
    secrets.extend(["ca.key", "master.key"].map(|name| key_of(&master.file(name))));
    secrets.push(key_of(&state.path().join("identity.pem")));
    let mut shapes: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| shapes(secret)).collect();
    shapes.extend(["hook-s3cret", "hook-p4th", "hunter2"].map(|text| text.as_bytes().to_vec()));
    for (path, text) in &parts {
        for shape in &shapes {
            let found = text.as_bytes().windows(shape.len()).any(|part| part == shape);
            assert!(!found, "{path} has {}: {text}", String::from_utf8_lossy(shape));
        }
    }

    let again = bundle(&master, &master.operator(), "", &file).await;
    assert!(again.code == 1 && again.err.contains(" is there already: remove it, or name another with --file"));
    assert_eq!(contents(&file), parts, "it is as it was");
}

#[tokio::test]
async fn what_cannot_be_had_is_named_and_the_rest_is_there() {
    let mut master = Master::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    master.joins(state.path(), "lady").active().await;
    let viewer = master.token("--role viewer").await;
    let (first, second) = (state.path().join("1.tar.gz"), state.path().join("2.tar.gz"));
    let done = bundle(&master, &viewer, "--with-agent --master-config /nowhere/master.toml", &first).await;
    assert_eq!(done.code, 0, "{}", done.err);
    let parts = contents(&first);
    assert!(parts["problems.txt"].contains("agent/report.txt: a viewer may only look"), "{}", parts["problems.txt"]);
    assert!(parts["problems.txt"].contains("file /nowhere/master.toml: no such file"), "{}", parts["problems.txt"]);
    assert!(parts.contains_key("explain.json") && parts.contains_key("commands.json"));

    let elsewhere = state.path().join("3.tar.gz");
    assert_eq!(bundle(&master, &viewer, "", &elsewhere).await.code, 0);
    let problems = contents(&elsewhere)["problems.txt"].clone();
    assert!(problems.starts_with("master/config.json: no master is configured on this machine"), "{problems}");

    let mistyped = master.tool_with(&viewer, "support-bundle lday").await;
    assert_eq!(
        (mistyped.code, mistyped.err.as_str()),
        (1, "sloth-runner: no agent \"lday\": did you mean \"lady\"? `sloth-runner agent list` shows all\n")
    );

    master.kill().await;
    let done = bundle(&master, &viewer, "-o json", &second).await;
    let document: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, document["parts"][1].as_str()), (0, Some("tool.json")), "{document}");
    let parts = contents(&second);
    assert!(
        parts["problems.txt"].starts_with("explain.json: cannot reach the master at "),
        "{}",
        parts["problems.txt"]
    );
}
