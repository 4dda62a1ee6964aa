//! Holds the checked-in code to the .proto files. `UPDATE=1 cargo test -p proto` writes it anew.

use std::{env, fs, path::Path};

#[test]
fn generated_code_is_what_the_proto_files_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("../../proto");
    let descriptors = protox::compile(["agent.proto", "health.proto"], [&protos]).expect("the .proto files compile");
    let out = tempdir();
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::SmallCodec")
        .bytes(".agent.OutputMessage.data")
        .bytes(".agent.OutputChunk.data")
        .bytes(".agent.StdinChunk.data")
        .client_mod_attribute("agent", "#[cfg(any(feature = \"client\", feature = \"fleet-client\"))]")
        .server_mod_attribute("agent", "#[cfg(feature = \"server\")]")
        .client_mod_attribute("grpc.health.v1", "#[cfg(feature = \"health-client\")]")
        .server_mod_attribute("grpc.health.v1", "#[cfg(feature = \"health\")]")
        .out_dir(&out)
        .compile_fds(descriptors)
        .expect("code is generated");
    for file in ["agent.rs", "grpc.health.v1.rs"] {
        let fresh = fs::read_to_string(out.join(file)).expect("generated file");
        let kept = root.join("src/generated").join(file);
        if env::var_os("UPDATE").is_some() {
            fs::write(&kept, &fresh).expect("checked-in file is writable");
        }
        let old = fs::read_to_string(&kept).unwrap_or_default();
        assert!(old == fresh, "{} is stale: run `UPDATE=1 cargo test -p proto`", kept.display());
    }
    fs::remove_dir_all(&out).expect("temporary directory goes");
}

fn tempdir() -> std::path::PathBuf {
    let dir = env::temp_dir().join(format!("sloth-proto-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("temporary directory");
    dir
}
